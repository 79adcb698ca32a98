"""The parts of an adapter, as methods use it.

An adapter has three parts, in one file: a specification (the options that a user sets), a tuner (makes the
parameters, one slice per episode) and an :class:`~lorattt.clip.attention.Adapter` (how the blocks read them).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lorattt.clip.attention import Adapter
from lorattt.clip.vision import VisionTower


class Tuner(Protocol):
    """Makes the parameters of E episodes and lets the blocks read them."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """The adapted blocks, 0-based and ascending: those below the first run once, without a graph."""

    @property
    def is_identity_at_init(self) -> bool:
        """Whether new parameters leave the tower's output as it is."""

    def init_parameters(self, episodes: int, device: torch.device) -> dict[str, Tensor]:
        """New leaves on the device, each ``(E, *)``: one slice per episode."""

    def adapter(
        self, parameters: Mapping[str, Tensor], keys: Tensor | None = None, *, at_init: bool = False
    ) -> Adapter:
        """The parameters of :meth:`init_parameters`, as they are now, as the blocks read them.

        ``keys`` ``(E,)`` int64 are for random numbers in an update, such as those of dropout; None at prediction.
        ``at_init`` promises that the parameters are still as they were made, which may save work.
        """


class AdapterSpec(ABC):
    """Options of an adapter from outside the package: ``model.tune`` takes a subclass by its class path."""

    @abstractmethod
    def build(self, tower: VisionTower, seed: int) -> Tuner:
        """The tuner for a tower; ``seed`` is the run's."""
