"""The views of E images, encoded on first use and cached across methods."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.frozen import Scratch
from lorattt.clip.model import Clip
from lorattt.clip.vision import VisionTower
from lorattt.episodes.clock import StageTimer
from lorattt.rng import episode_keys


@dataclass(frozen=True)
class EncodedViews:
    """All views of E images through the frozen model.

    Attributes:
        trunk: ``(E, V, L, d)`` tokens as the first adapted block reads them.
        tokens: ``(E, V, d)`` class tokens, before the projection.
    """

    trunk: Tensor
    tokens: Tensor


class SharedViews:
    """The views of E images, encoded when they are first needed and at most once.

    Its tensors have no graph and are shared by all methods: change nothing in place.

    Args:
        clip: The model whose image tower encodes.
        views: ``(E, V, 3, S, S)``, view 0 is the plain one: uint8, or normalised and of the tower's dtype.
        index: ``(E,)`` int64, the dataset-wide number of each image.
        seed: The run's seed.
        trunks: First adapted blocks, for :meth:`encoded`. The inputs of blocks named here are kept on the first
            pass, whichever method causes it.
        chunk: Views encoded at a time: bounds memory, changes nothing else. Null: few enough for a CPU's caches,
            256 on other devices.
        clock: Counts the time of encoding.
    """

    def __init__(
        self,
        clip: Clip,
        views: Tensor,
        index: Tensor,
        seed: int,
        *,
        trunks: Iterable[int] = (),
        chunk: int | None = None,
        clock: StageTimer | None = None,
    ) -> None:
        self.clip, self.views, self.index, self.seed, self.chunk = clip, views, index, seed, chunk
        self._clock = clock or StageTimer()
        self._wanted = set(trunks)
        self._pixels: Tensor | None = None
        self._trunks: dict[int, Tensor] = {}
        self._tokens: Tensor | None = None
        self._features: Tensor | None = None
        self._plain: Tensor | None = None

    def __len__(self) -> int:
        """E, the number of images."""
        return len(self.views)

    @property
    def number(self) -> int:
        """V, the number of views of an image."""
        return self.views.shape[1]

    @property
    def keys(self) -> Tensor:
        """``(E,)`` int64 episode keys, from the seed and the images' numbers."""
        return episode_keys(self.seed, self.index)

    @property
    def pixels(self) -> Tensor:
        """``(E, V, 3, S, S)`` normalised views, of the tower's dtype."""
        if self._pixels is None:
            self._pixels = self._normalised(self.views)
        return self._pixels

    @property
    def features(self) -> Tensor:
        """``(E, V, D)`` float32 unit image features of all views."""
        if self._features is None:
            with self._clock.stage("encode"):
                if isinstance(self.clip.vision, VisionTower):
                    features = self.clip.vision.project(self._class_tokens(self.clip.vision))
                else:
                    features = self._other_features()
                self._features = F.normalize(features.float(), dim=-1)
        return self._features

    @property
    def plain_features(self) -> Tensor:
        """``(E, D)`` float32 unit image features of view 0; the other views are not encoded for it."""
        if self._features is not None or self._tokens is not None:
            return self.features[:, 0]
        if self._plain is None:
            with torch.no_grad(), self._clock.stage("encode"):
                features = self.clip.vision.features(self._normalised(self.views[:, 0]))
                self._plain = F.normalize(features.float(), dim=-1)
        return self._plain

    def encoded(self, first: int) -> EncodedViews:
        """Trunk outputs and class tokens of all views.

        Args:
            first: The first adapted block; a view is encoded once if it was named in ``trunks``.

        Raises:
            UserError: If the image tower is not a ViT.
        """
        if first not in self._trunks:
            self._wanted.add(first)
            self._tokens = None
            with self._clock.stage("encode"):
                self._encode(self.clip.vit)
        assert self._tokens is not None
        return EncodedViews(self._trunks[first], self._tokens)

    def _class_tokens(self, tower: VisionTower) -> Tensor:
        if self._tokens is None:
            self._encode(tower)
        assert self._tokens is not None
        return self._tokens

    def _encode(self, tower: VisionTower) -> None:
        # With trunks, pixels are wanted as well, for masked views; without, a part of them at a time will do.
        views = (self.pixels if self._wanted or self._pixels is not None else self.views).flatten(0, 1)
        prepare = self.clip.normalise if views.dtype == torch.uint8 else None
        trunks, tokens = encode_views(tower, views, self._wanted, chunk=self.chunk, prepare=prepare)
        shape = self.views.shape[:2]
        self._trunks |= {first: trunk.unflatten(0, shape) for first, trunk in trunks.items()}
        self._tokens = tokens.unflatten(0, shape)

    @torch.no_grad()
    def _other_features(self) -> Tensor:
        size = self.chunk or (32 if self.views.device.type == "cpu" else 256)
        parts = self.views.flatten(0, 1).split(size)
        features = torch.cat([self.clip.vision.features(self._normalised(part)) for part in parts])
        return torch.as_tensor(features.unflatten(0, self.views.shape[:2]))

    def _normalised(self, views: Tensor) -> Tensor:
        return self.clip.normalise(views) if views.dtype == torch.uint8 else views


@torch.no_grad()
def encode_views(
    tower: VisionTower,
    views: Tensor,
    trunks: Iterable[int] = (),
    *,
    chunk: int | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[int, Tensor], Tensor]:
    """Views through the frozen tower, each block once, without a graph.

    Args:
        tower: The image tower.
        views: ``(N, 3, S, S)`` normalised and of the tower's dtype, or what ``prepare`` makes so.
        trunks: Blocks, 0 to depth - 1, whose inputs are to be kept.
        chunk: Views at a time; null for :func:`views_at_once`.
        prepare: Applied to each chunk before it is encoded.

    Returns:
        The inputs ``(N, L, d)`` of the named blocks, by number, and class tokens ``(N, d)`` before the projection.
    """
    stops, last, scratch = tuple(sorted(set(trunks))), tower.depth - 1, Scratch()
    size = chunk or views_at_once(tower, views.device)
    shape = (len(views), 1 + tower.patches, tower.width)
    kept = {first: torch.empty(shape, dtype=tower.dtype, device=views.device) for first in stops}
    tokens = torch.empty(shape[0], shape[2], dtype=tower.dtype, device=views.device)
    for place in range(0, len(views), size):
        part = slice(place, place + size)
        pixels = prepare(views[part]) if prepare else views[part]
        if tower.compiled_pass is not None:
            count = len(pixels)
            # One shape for all parts: another would be compiled anew.
            inputs, found = tower.compiled_pass(torch.cat([pixels, pixels[:1].expand(size - count, -1, -1, -1)]), stops)
            for first, x in zip(stops, inputs, strict=True):
                kept[first][part] = x[:count]
            tokens[part] = found[:count]
            continue
        x, block = tower.embed(pixels), 0
        for first in stops:
            x, block = tower.frozen_blocks_(x, block, first, scratch), first
            kept[first][part] = x
        x = tower.frozen_blocks_(x, block, last, scratch)
        tokens[part] = tower.class_token(x, last)
    return kept, tokens


def views_at_once(tower: VisionTower, device: torch.device) -> int:
    """How many views of a frozen ViT are encoded at a time on that device."""
    if device.type != "cpu":
        return 256
    # The widest temporary is the MLP's; beyond about 10 MB, memory costs more than arithmetic.
    hidden = 4 * tower.width * (1 + tower.patches) * tower.dtype.itemsize
    return max(1, min(64, 10_000_000 // hidden))
