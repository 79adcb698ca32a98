"""The views of E images, encoded once without a graph, for all methods of a run."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.attention import Scratch
from lorattt.clip.model import Clip
from lorattt.clip.vision import VisionTower
from lorattt.episodes.clock import StageTimer
from lorattt.rng import episode_keys


@dataclass(frozen=True)
class Needs:
    """What a method reads of the views."""

    all_views: bool = True  # features of all views; if false, of view 0 alone
    trunks: frozenset[int] = frozenset()  # blocks of a ViT whose inputs are kept, with pixels and class tokens
    chunk: int | None = None  # views encoded at a time, see views_at_once: bounds memory, changes nothing else

    @staticmethod
    def join(needs: Iterable["Needs"]) -> "Needs":
        """What several methods read together."""
        needs = list(needs)
        chunks = [each.chunk for each in needs if each.chunk is not None]
        trunks = frozenset[int]().union(*(each.trunks for each in needs))
        return Needs(any(each.all_views for each in needs), trunks, min(chunks, default=None))


@dataclass(frozen=True, eq=False)
class SharedViews:
    """The encoded views of E images. Methods share the tensors, which have no graph: change nothing in place."""

    index: Tensor  # (E,) int64, the dataset-wide number of each image
    keys: Tensor  # (E,) int64 episode keys, from the run's seed and these numbers: for random numbers
    features: Tensor  # (E, V, D) float32 unit features; of view 0 alone, (E, 1, D), where no method reads others
    pixels: Tensor | None = None  # (E, V, 3, S, S) normalised views of the tower's dtype; None without trunks
    tokens: Tensor | None = None  # (E, V, d) class tokens before the projection; None without trunks
    trunks: Mapping[int, Tensor] = field(default_factory=dict)  # (E, V, L, d) inputs of blocks, by number

    def __len__(self) -> int:
        """E, the number of images."""
        return len(self.index)

    @property
    def number(self) -> int:
        """V, the number of views of an image."""
        return self.features.shape[1]

    @property
    def plain_features(self) -> Tensor:
        """``(E, D)`` float32 unit features of view 0."""
        return self.features[:, 0]

    def image(self, number: int) -> "SharedViews":
        """One of the E images alone."""
        own = slice(number, number + 1)
        pixels, tokens = (None if each is None else each[own] for each in (self.pixels, self.tokens))
        trunks = {block: trunk[own] for block, trunk in self.trunks.items()}
        return SharedViews(self.index[own], self.keys[own], self.features[own], pixels, tokens, trunks)


@torch.no_grad()
def encode_views(
    clip: Clip, views: Tensor, index: Tensor, seed: int, needs: Needs = Needs(), clock: StageTimer | None = None
) -> SharedViews:
    """Encode the views of E images, each view once.

    ``views`` are ``(E, V, 3, S, S)``: uint8, or normalised and of the tower's dtype; view 0 is the plain one. ``index``
    has the ``(E,)`` dataset-wide numbers of the images. ``clock`` counts the time of encoding.
    """
    prepare = clip.normalise if views.dtype == torch.uint8 else None
    tower, keys, shape = clip.vit if needs.trunks else clip.vision, episode_keys(seed, index), views.shape[:2]
    with (clock or StageTimer()).stage("encode"):
        if not needs.all_views:
            plain = tower.features(prepare(views[:, 0]) if prepare else views[:, 0])
            return SharedViews(index, keys, F.normalize(plain.float(), dim=-1).unsqueeze(1))
        if not isinstance(tower, VisionTower):
            size = needs.chunk or (32 if views.device.type == "cpu" else 256)
            parts = views.flatten(0, 1).split(size)
            found = torch.cat([tower.features(prepare(part) if prepare else part) for part in parts])
            return SharedViews(index, keys, F.normalize(found.unflatten(0, shape).float(), dim=-1))
        if needs.trunks and prepare:
            # The pixels of masked views are read again; otherwise a part of them at a time will do.
            views, prepare = prepare(views), None
        kept, flat = encode_tokens(tower, views.flatten(0, 1), needs.trunks, chunk=needs.chunk, prepare=prepare)
        tokens = flat.unflatten(0, shape)
        features = F.normalize(tower.project(tokens).float(), dim=-1)
    if not needs.trunks:
        return SharedViews(index, keys, features)
    trunks = {block: trunk.unflatten(0, shape) for block, trunk in kept.items()}
    return SharedViews(index, keys, features, views, tokens, trunks)


@torch.no_grad()
def encode_tokens(
    tower: VisionTower,
    views: Tensor,
    trunks: Iterable[int] = (),
    *,
    chunk: int | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[int, Tensor], Tensor]:
    """Views through the frozen tower, each block once, without a graph, ``chunk`` at a time.

    ``views`` are ``(N, 3, S, S)``, normalised and of the tower's dtype, or what ``prepare`` makes so, chunk by chunk.
    Returns the inputs ``(N, L, d)`` of the blocks ``trunks`` (0 to depth - 1), by number, and class tokens ``(N, d)``
    before the projection.
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
