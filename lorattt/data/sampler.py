"""Divides images among devices, in order or shuffled anew in each epoch; never the same image twice.

Both are a ``DistributedSampler``: Lightning would replace any other sampler, on several devices, by one that pads, and
it calls their ``set_epoch``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from lorattt.errors import UserError
from lorattt.rng import Stream, episode_keys, fold, uniform


class ExactShard(DistributedSampler[Any]):
    """Positions rank, rank + world, rank + 2 world, ...: no padding, so shares may differ by one.

    ``world`` is the number of devices, and ``rank`` the number of this one.
    """

    def __init__(self, dataset: Dataset[Any], world: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)
        self._positions = range(rank, len(dataset), world)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


class EpochShard(DistributedSampler[Any]):
    """This device's (epoch, position) pairs, as many on each, in an order that is a function of (seed, epoch) alone.

    The pairs carry the epoch, since workers may live longer than one. Step t of all devices together has the images
    of step t of one device with ``batch_size * world``. The rest after the last whole step is dropped; an epoch
    shorter than one step is one smaller step, of images that must divide evenly among the devices.
    """

    def __init__(self, dataset: Dataset[Any], *, batch_size: int, seed: int = 0, world: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=seed)
        self._count = len(dataset)  # type: ignore[arg-type]
        whole = self._count // (batch_size * world) * batch_size
        if not whole and self._count % world:
            raise UserError(
                f"{self._count} training images are less than one step of {world} devices with data.batch_size "
                f"{batch_size}, and cannot be shared out evenly: use a smaller data.batch_size or fewer devices"
            )
        self._share = whole or self._count // world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        key = fold(episode_keys(self.seed, torch.tensor([self.epoch])), Stream.EPOCH_ORDER)
        order = uniform(key, (self._count,), torch.float64)[0].argsort(stable=True)
        own = order[self.rank :: self.num_replicas][: self._share]
        return iter([(self.epoch, position) for position in own.tolist()])

    def __len__(self) -> int:
        return self._share
