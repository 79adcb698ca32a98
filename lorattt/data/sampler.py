"""Divides a dataset among devices: every image exactly once."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


class ExactShard(DistributedSampler[Any]):
    """Positions rank, rank + world, rank + 2 world, ...: no padding, so shares may differ by one.

    A ``DistributedSampler``, because on several devices Lightning would replace any other sampler by one that
    pads, and images would count twice.

    Args:
        dataset: The dataset.
        world: Number of devices.
        rank: This device's number.
    """

    def __init__(self, dataset: Dataset[Any], world: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False, drop_last=False)
        self._positions = range(rank, len(dataset), world)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """This device's positions, in order."""
        return iter(self._positions)

    def __len__(self) -> int:
        """Number of this device's positions."""
        return len(self._positions)
