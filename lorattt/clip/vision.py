"""Image towers: features of any tower, and the tokens of a ViT."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from lorattt.clip.attention import Adapter, Scratch, layer_norm, run_block, run_frozen_block_
from lorattt.errors import UserError, quoted

BACKEND = "inductor"
# By default PyTorch stops after 8 variants of a function; sizes of parts, passes and steps make more than that. All
# supported versions know this name.
_VARIANTS = {"cache_size_limit": 64}


class ImageTower(nn.Module):
    """Any frozen image tower of open_clip, which gives image features; ``label`` is its name in messages."""

    def __init__(self, visual: nn.Module, label: str) -> None:
        super().__init__()
        self.visual = visual
        self.label = label

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that images have to be in."""
        for parameter in self.visual.parameters():
            if parameter.dim() == 4:  # the first convolution: norms may be wider
                return parameter.dtype
        return next(self.visual.parameters()).dtype

    def features(self, pixels: Tensor) -> Tensor:
        """``(N, 3, S, S)`` normalised images of the tower's dtype to ``(N, D)`` features, not of unit length."""
        out: Tensor | tuple[Tensor, ...] = self.visual(pixels)
        return out[0] if isinstance(out, tuple) else out


class VisionTower(ImageTower):
    """A CLIP ViT at the level of tokens: embed, blocks i to j, class token, projection.

    The sequence is the class token, then the patches in row-major order. Widths: d of the tokens, D of
    the joint space. Everything is computed from open_clip's own parameters.
    """

    visual: VisionTransformer
    compiled_pass: Callable[[Tensor, tuple[int, ...]], tuple[list[Tensor], Tensor]] | None = None
    """:meth:`frozen_pass` compiled, after :meth:`compile_passes`."""
    _compiled_head: Callable[[Tensor, int, Adapter | None], Tensor] | None = None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.visual.transformer.resblocks)

    @property
    def width(self) -> int:
        """Width d of the tokens."""
        return int(self.visual.class_embedding.shape[0])

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return int(self.visual.grid_size[0] * self.visual.grid_size[1])

    def block(self, number: int) -> ResidualAttentionBlock:
        """One block, by its 0-based number."""
        return cast("ResidualAttentionBlock", self.visual.transformer.resblocks[number])

    def resolve_blocks(self, blocks: Sequence[int]) -> tuple[int, ...]:
        """Sorted 0-based block numbers, negative ones counted from the end; a UserError unless they are valid."""
        for number in blocks:
            if not -self.depth <= number < self.depth:
                raise UserError(
                    f"blocks {quoted(list(blocks))}: {number} is out of range; {self.label} has {self.depth} blocks, "
                    f"0 to {self.depth - 1} (or -1 to -{self.depth} from the end)"
                )
        resolved = tuple(sorted({number % self.depth for number in blocks}))
        if not resolved or len(resolved) < len(blocks):
            raise UserError(f"blocks {quoted(list(blocks))}: name at least one block, and each only once")
        return resolved

    def embed(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        """``(N, 3, S, S)`` normalised images of the tower's dtype to ``(N, 1 + P, d)`` tokens with positions.

        With ``kept`` ``(N, P')`` int64, only these patches, in that order; the others are dropped, as in a masked
        autoencoder, not replaced.
        """
        visual = self.visual
        (rows, columns), (height, width) = visual.grid_size, visual.patch_size
        # The convolution's kernel is its stride: a linear layer on patches, so dropped ones need not be embedded.
        patches = pixels.view(-1, pixels.shape[1], rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
        patches = patches.flatten(3).flatten(1, 2)  # (N, P, 3 * patch area)
        positions = visual.positional_embedding.to(pixels.dtype)
        places = positions[1:]
        if kept is not None:
            patches = patches.gather(1, kept.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            places = places[kept]
        embedded = F.linear(patches, visual.conv1.weight.flatten(1), visual.conv1.bias)  # (N, P', d)
        x = embedded.new_empty(embedded.shape[0], 1 + embedded.shape[1], embedded.shape[2])
        x[:, 1:] = embedded + places
        x[:, 0] = visual.class_embedding.to(x.dtype) + positions[0]
        return layer_norm(x, visual.ln_pre) if isinstance(visual.ln_pre, nn.LayerNorm) else x

    def blocks(self, x: Tensor, start: int, stop: int, adapter: Adapter | None = None) -> Tensor:
        """Run blocks ``start`` to ``stop - 1`` on tokens ``(N, L, d)``."""
        for number in range(start, stop):
            x = run_block(self.block(number), x, number=number, adapter=adapter)
        return x

    def frozen_blocks_(self, x: Tensor, start: int, stop: int, scratch: Scratch) -> Tensor:
        """As :meth:`blocks`, without adapter or graph; ``x`` may be overwritten."""
        for number in range(start, stop):
            x = run_frozen_block_(self.block(number), x, scratch)
        return x

    def frozen_pass(self, pixels: Tensor, stops: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
        """Images through all blocks, without adapter: inputs ``(N, L, d)`` of the blocks ``stops``, and class tokens.

        ``stops`` ascend; class tokens ``(N, d)`` are those before the projection.
        """
        x, block, inputs = self.embed(pixels), 0, []
        for stop in stops:
            x, block = self.blocks(x, block, stop), stop
            inputs.append(x)
        return inputs, self.class_token(x, block)

    def compile_passes(self) -> None:
        """Have :meth:`frozen_pass` compiled when it is first called, :meth:`adapted_class_token` when shapes repeat."""
        self.compiled_pass = Compiled(self.frozen_pass)
        self._compiled_head = Compiled(self.class_token, repeats=True)

    def class_token(self, x: Tensor, start: int, adapter: Adapter | None = None) -> Tensor:
        """Run the blocks from ``start`` on, ``depth`` for none: ``(N, L, d)`` to ``(N, d)`` after the final LayerNorm.

        The last block computes its class token alone, as nothing reads its other tokens.
        """
        last = self.depth - 1
        if start <= last:
            x = self.blocks(x, start, last, adapter)
            x = run_block(self.block(last), x, number=last, adapter=adapter, queries=1)
        return layer_norm(x[:, :1], self.visual.ln_post).squeeze(1)

    def adapted_class_token(self, x: Tensor, start: int, adapter: Adapter | None) -> Tensor:
        """As :meth:`class_token`, compiled if asked for: for blocks that are adapted, batch after batch."""
        return (self._compiled_head or self.class_token)(x, start, adapter)

    def project(self, class_token: Tensor) -> Tensor:
        """Class tokens ``(N, d)`` to features ``(N, D)`` of the joint space, not of unit length."""
        return class_token if self.visual.proj is None else class_token @ self.visual.proj

    def features(self, pixels: Tensor) -> Tensor:
        """``(N, 3, S, S)`` normalised images of the tower's dtype to ``(N, D)`` features, not of unit length."""
        return self.project(self.class_token(self.embed(pixels), 0))


def wrap_tower(visual: nn.Module, label: str) -> ImageTower:
    """A :class:`VisionTower` if the tower is a ViT pooled by its class token, else an :class:`ImageTower`."""
    if (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
    ):
        return VisionTower(visual, label)
    return ImageTower(visual, label)


class Compiled:
    """A function that is compiled anew for each combination of shapes; a copy or pickle compiles for itself.

    With ``repeats``, only shapes that come again are compiled. It takes up to a minute, too long for a run's last
    batch, which is smaller than the others.
    """

    def __init__(self, function: Callable[..., Any], repeats: bool = False) -> None:
        self._plain, self._repeats = function, repeats
        self._compiled = torch.compile(function, dynamic=False, backend=BACKEND)
        self._seen: set[Hashable] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the compiled code behind."""
        return Compiled, (self._plain, self._repeats)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; the result is the same up to rounding."""
        shapes = (value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        key = (torch.is_grad_enabled(), *shapes)
        if self._repeats and key not in self._seen:
            self._seen.add(key)
            return self._plain(*args, **kwargs)
        with torch._dynamo.config.patch(_VARIANTS):
            return self._compiled(*args, **kwargs)
