"""LayerNorm's weight and bias, one pair per episode.

Where LoRA adds parameters, this replaces some that the tower has: the blocks read the episodes' pairs ``(E, d)``
in place of the norms' own ``(d,)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorattt.clip.attention import NORMS, Adapter, Norm
from lorattt.clip.vision import VisionTower


@dataclass(frozen=True)
class LayerNormSpec:
    """Which norms are tuned.

    Args:
        blocks: 0-based blocks of the image tower; negative ones count from the end. Both norms of each.
    """

    blocks: tuple[int, ...] = (-1,)

    def build(self, tower: VisionTower, seed: int) -> "LayerNormTuner":
        """The tuner for a tower; nothing here is random."""
        return LayerNormTuner(tower, self)


@dataclass(frozen=True, eq=False)
class EpisodeNorms(Adapter):
    """Weights and biases of norms, one pair per episode, as the blocks read them."""

    parameters: Mapping[str, Tensor]  # {block}.{norm}.weight and {block}.{norm}.bias, each (E, d)

    def affine(self, block: int, norm: Norm) -> tuple[Tensor, Tensor] | None:
        """The episodes' weights and biases of a tuned norm."""
        weight = self.parameters.get(f"{block}.{norm}.weight")
        return None if weight is None else (weight, self.parameters[f"{block}.{norm}.bias"])


class LayerNormTuner:
    """Makes the episodes' weights and biases."""

    is_identity_at_init = True

    def __init__(self, tower: VisionTower, spec: LayerNormSpec) -> None:
        self.blocks = tower.resolve_blocks(spec.blocks)
        self._norms: dict[str, nn.LayerNorm] = {
            f"{number}.{name}": getattr(tower.block(number), name) for number in self.blocks for name in NORMS
        }

    def init_parameters(self, episodes: int, device: torch.device) -> dict[str, Tensor]:
        """New leaves ``(E, d)`` on the device, float32, each episode's a copy of the norm's own weight or bias."""
        return {
            f"{place}.{name}": value.detach().float().to(device).expand(episodes, -1).clone().requires_grad_()
            for place, norm in self._norms.items()
            for name, value in norm.named_parameters()
        }

    def adapter(
        self, parameters: Mapping[str, Tensor], keys: Tensor | None = None, *, at_init: bool = False
    ) -> EpisodeNorms:
        """The parameters as the blocks read them."""
        return EpisodeNorms(parameters)
