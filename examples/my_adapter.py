"""An adapter of one's own: each image learns a vector that is added to the output of attention, block by block."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorattt.adapters.tuner import AdapterSpec
from lorattt.clip.attention import Adapter, Projection
from lorattt.clip.vision import VisionTower


@dataclass(frozen=True)
class BiasSpec(AdapterSpec):
    """Which blocks learn a vector.

    Args:
        blocks: 0-based blocks of the image tower; negative ones count from the end.
    """

    blocks: tuple[int, ...] = (-2, -1)

    def build(self, tower: VisionTower, seed: int) -> "BiasTuner":
        """The tuner for a tower."""
        return BiasTuner(tower, self)


class BiasTuner:
    """Makes the vectors, one per block and image, all zero."""

    is_identity_at_init = True

    def __init__(self, tower: VisionTower, spec: BiasSpec) -> None:
        self.blocks = tower.resolve_blocks(spec.blocks)
        self.width = tower.width

    def init_parameters(self, episodes: int, device: torch.device) -> dict[str, Tensor]:
        """New leaves ``(E, d)``, float32."""
        return {f"{block}": torch.zeros(episodes, self.width, device=device).requires_grad_() for block in self.blocks}

    def adapter(self, parameters: Mapping[str, Tensor], keys: Tensor | None = None, *, at_init: bool = False) -> "Bias":
        """The vectors as the blocks read them."""
        return Bias(parameters)


class Bias(Adapter):
    """Adds its episode's vector to each row of the output projection."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters

    def add(self, block: int, projection: Projection, x: Tensor, base: Tensor) -> Tensor:
        """``base`` ``(E * n, L, d)`` plus the vectors ``(E, d)``; other projections and blocks stay as they are."""
        bias = self.parameters.get(f"{block}")
        if bias is None or projection != "out":
            return base
        rows = base.view(len(bias), -1, base.shape[-1])  # (E, n * L, d)
        return (rows + bias.to(base.dtype).unsqueeze(1)).view(base.shape)
