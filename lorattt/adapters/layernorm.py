"""Tuning LayerNorm's scale and shift in place, one pair per episode.

The counterpart of LoRA that changes weights the tower already has: the chosen norms get stacked
parameters ``(E, d)`` in place of their own ``(d,)`` for the length of a batch, and
:func:`lorattt.episodes.state.preserved` puts the originals back.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorattt.clip.vision import VisionTower
from lorattt.episodes.state import preserved


@dataclass(frozen=True)
class LayerNormSpec:
    """Which norms are tuned.

    Args:
        blocks: 0-based blocks of the image tower; negative ones count from the end. Both norms of each.
    """

    blocks: tuple[int, ...] = (-1,)


class LayerNormTuner:
    """Makes fresh scales and shifts and puts them into the tower.

    Args:
        tower: The ViT to adapt.
        spec: Which blocks.

    Raises:
        UserError: If a block is out of range.
    """

    def __init__(self, tower: VisionTower, spec: LayerNormSpec) -> None:
        self.blocks = tower.resolve_blocks(spec.blocks)
        self._norms: dict[str, nn.LayerNorm] = {
            f"{number}.{name}": getattr(tower.block(number), name)
            for number in self.blocks
            for name in ("ln_1", "ln_2")
        }

    @property
    def starts_as_frozen(self) -> bool:
        """Fresh parameters are the norms' own."""
        return True

    def fresh(self, episodes: int, device: torch.device) -> dict[str, Tensor]:
        """New leaves ``(E, d)`` on the device, each episode's a copy of the norm's own weight or bias."""
        return {
            f"{place}.{name}": nn.Parameter(value.detach().float().to(device).expand(episodes, -1).clone())
            for place, norm in self._norms.items()
            for name, value in norm.named_parameters()
        }

    @contextmanager
    def installed(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the tower's chosen norms read the episodes' parameters; afterwards they are as before."""
        with preserved(*self._norms.values()):
            for name, value in parameters.items():
                place, attribute = name.rsplit(".", 1)
                setattr(self._norms[place], attribute, value)
            yield

    def adapter(self, parameters: Mapping[str, Tensor], keys: Tensor | None = None, *, fresh: bool = False) -> None:
        """Nothing is added to a projection."""
