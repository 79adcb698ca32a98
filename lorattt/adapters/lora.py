"""Low-rank matrices on the attention projections, one set per episode (Hu et al., ICLR 2022).

A projection W x + b becomes W x + b + g B A x. q, k, v and out each have their own A and B, also where
the frozen q, k and v are fused in one matrix. E episodes share the GEMM with W; theirs alone are two
small batched products. LoRA-TTT section 1.2 of the authors' configuration: rank 16, last two blocks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lorattt.clip.attention import PROJECTIONS, Adapter, Projection
from lorattt.clip.vision import VisionTower
from lorattt.errors import UserError
from lorattt.inputs import at_least
from lorattt.rng import Stream, episode_keys, fold, keep_mask, uniform


@dataclass(frozen=True)
class LoRASpec:
    """The shape and the strength of the adapters.

    Args:
        rank: Rank r of B A.
        multiplier: The factor g on B A (alpha / r in other programs' terms).
        blocks: 0-based blocks of the image tower; negative ones count from the end.
        projections: Which of q, k, v, out have an adapter.
        dropout: Probability that an input of A is zeroed during the update; never at prediction.
    """

    rank: int = 16
    multiplier: float = 12.0
    blocks: tuple[int, ...] = (-2, -1)
    projections: tuple[Projection, ...] = PROJECTIONS
    dropout: float = 0.01

    def __post_init__(self) -> None:
        """Validate the ranges."""
        at_least(1, lora__rank=self.rank)
        if not math.isfinite(self.multiplier):
            raise UserError(f"lora.multiplier {self.multiplier}: must be a finite number")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout {self.dropout}: must be at least 0 and below 1")
        if not self.projections:
            raise UserError("lora.projections is empty: name at least one of q, k, v, out")

    def build(self, tower: VisionTower, seed: int) -> "LoRATuner":
        """The tuner for a tower."""
        return LoRATuner(tower, self, seed)


@dataclass(frozen=True, eq=False)
class LoRA(Adapter):
    """One set of adapters per episode, as the blocks read them."""

    parameters: Mapping[str, Tensor]  # {block}.{projection}.A of shape (E, r, d) and .B of (E, d, r), float32
    multiplier: float  # the factor g
    dropout: float = 0.0  # probability that an input of A is zeroed, with keys
    keys: Tensor | None = None  # (E,) int64 keys of the dropout decisions; None for no dropout
    b_is_zero: bool = False
    """Promises that every B is zero. The output is then the projection's own and the gradient is that of B alone, since
    those of A and of the input pass through B: fewer products, the same result."""

    def add(self, block: int, projection: Projection, x: Tensor, base: Tensor) -> Tensor:
        """``base + g B A x`` for inputs ``(E * n, L, d)``, episode-major; ``base`` where there is no adapter."""
        a = self.parameters.get(f"{block}.{projection}.A")
        if a is None:
            return base
        b = self.parameters[f"{block}.{projection}.B"]
        if self.b_is_zero:
            with torch.no_grad():
                down = self._down(block, projection, x, a)
            return cast("Tensor", _AddZero.apply(base, down, b, self.multiplier))
        up = (b * self.multiplier).to(x.dtype).transpose(1, 2)  # (E, r, d)
        return base + torch.bmm(self._down(block, projection, x, a), up).view(base.shape)

    def _down(self, block: int, projection: Projection, x: Tensor, a: Tensor) -> Tensor:
        """A x, ``(E, n * L, r)``, with dropout of x in the update."""
        rows = x.reshape(a.shape[0], -1, x.shape[-1])  # (E, n * L, d)
        if self.dropout > 0 and self.keys is not None:
            keys = fold(fold(self.keys, block), PROJECTIONS.index(projection))
            rows = rows * keep_mask(keys, (rows.shape[1], rows.shape[2]), self.dropout).to(rows.dtype)
            a = a / (1 - self.dropout)
        return torch.bmm(rows, a.to(x.dtype).transpose(1, 2))  # (E, n L, d) @ (E, d, r)


class _AddZero(torch.autograd.Function):
    """``base + g B down`` where B is zero: the value is ``base``, the gradient of B is the product's."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, down: Tensor, b: Tensor, multiplier: float) -> Tensor:
        """``(E * n, L, d)``, ``(E, n * L, r)``, ``(E, d, r)`` to ``base``."""
        ctx.save_for_backward(down)
        ctx.multiplier, ctx.dtype = multiplier, b.dtype
        return base.view_as(base)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        """The gradient of ``base`` as it is, and that of B, ``(E, d, r)``."""
        (down,) = ctx.saved_tensors
        rows = gradient.reshape(*down.shape[:2], -1)
        return gradient, None, (torch.bmm(rows.transpose(1, 2), down) * ctx.multiplier).to(ctx.dtype), None


class LoRATuner:
    """Makes new adapters and hands them to the blocks. A is drawn from the seed once, the same for every episode."""

    def __init__(self, tower: VisionTower, spec: LoRASpec, seed: int) -> None:
        self.spec = spec
        self.blocks = tower.resolve_blocks(spec.blocks)
        self.initial = initial_lora(spec, tower.width, self.blocks, seed)

    @property
    def is_identity_at_init(self) -> bool:
        """Whether new adapters add nothing: B is zero."""
        return not any(value.any() for name, value in self.initial.items() if name.endswith(".B"))

    def init_parameters(self, episodes: int, device: torch.device) -> dict[str, Tensor]:
        """New leaves ``(E, *)`` on the device, each episode's a copy of the initial adapters."""
        return {
            name: value.to(device).expand(episodes, *value.shape).clone().requires_grad_()
            for name, value in self.initial.items()
        }

    def adapter(self, parameters: Mapping[str, Tensor], keys: Tensor | None = None, *, at_init: bool = False) -> LoRA:
        """The adapters as the blocks read them; with ``keys`` as in the update, dropout included."""
        stream = None if keys is None else fold(keys, Stream.LORA_DROPOUT)
        return LoRA(parameters, self.spec.multiplier, self.spec.dropout, stream, at_init and self.is_identity_at_init)


def initial_lora(spec: LoRASpec, width: int, blocks: Sequence[int], seed: int) -> dict[str, Tensor]:
    """One un-batched set, float32: ``{block}.{projection}.A`` ``(rank, width)`` and ``.B`` ``(width, rank)``.

    A is Kaiming-uniform with a = sqrt(5), that is U(-1/sqrt(d), 1/sqrt(d)); with B zero the model starts as frozen.
    """
    bound = 1 / math.sqrt(width)
    key = fold(episode_keys(seed, torch.tensor(0)), Stream.LORA_INIT)
    parameters: dict[str, Tensor] = {}
    for block in blocks:
        for projection in spec.projections:
            draws = uniform(fold(fold(key, block), PROJECTIONS.index(projection)), (spec.rank, width))
            parameters[f"{block}.{projection}.A"] = (2 * draws - 1) * bound
            parameters[f"{block}.{projection}.B"] = torch.zeros(width, spec.rank)
    return parameters
