"""What the kinds of adaptation have in common, as methods see it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from lorattt.clip.attention import Adapter


class Tuner(Protocol):
    """Makes the parameters of E episodes and lets the tower read them."""

    blocks: tuple[int, ...]

    @property
    def starts_as_frozen(self) -> bool:
        """Whether fresh parameters leave the tower's output as it is."""
        ...

    def fresh(self, episodes: int, device: torch.device) -> dict[str, Tensor]:
        """New leaves, one slice per episode."""
        ...

    def installed(self, parameters: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Inside, the tower may read the parameters as its own weights."""
        ...

    def adapter(
        self, parameters: Mapping[str, Tensor], keys: Tensor | None = None, *, fresh: bool = False
    ) -> Adapter | None:
        """What is added to projections; with keys as in the update, dropout included.

        ``fresh`` promises that the parameters are as :meth:`fresh` made them.
        """
        ...
