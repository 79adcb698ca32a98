"""The images of an epoch: their order, their device, and their crops."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from lorattt.data.source import ImageSource, read_episode
from lorattt.errors import UserError
from lorattt.rng import Stream, episode_keys, fold, uniform

TrainTransform = Callable[[Image.Image, int, int], Tensor]


class TrainingDataset(Dataset[dict[str, Any]]):
    """One view of each image, made from (seed, index, epoch) alone, or the image itself.

    Args:
        source: The images.
        indices: Which of them, by dataset-wide number.
        transform: Image, dataset-wide number and epoch to ``(1, 3, S, S)`` uint8; None leaves images as decoded.
    """

    def __init__(self, source: ImageSource, indices: list[int], transform: TrainTransform | None) -> None:
        self._source, self._indices, self._transform = source, indices, transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self._indices)

    def __getitem__(self, place: tuple[int, int] | int) -> dict[str, Any]:
        """One episode, see :func:`read_episode`.

        Args:
            place: Epoch and position. A position alone, as the sampler of Lightning's ``overfit_batches`` gives it,
                is one of epoch 0.
        """
        epoch, position = (0, place) if isinstance(place, int) else place
        made = None if self._transform is None else partial(_of_epoch, self._transform, epoch)
        return read_episode(self._source, self._indices[position], made)


def _of_epoch(transform: TrainTransform, epoch: int, image: Image.Image, index: int) -> Tensor:
    return transform(image, index, epoch)


class EpochShard(DistributedSampler[Any]):
    """This device's (epoch, position) pairs, in an order that is a function of (seed, epoch) alone.

    The pairs carry the epoch, since workers may live longer than one. Step t of all devices together has the images
    of step t of one device with ``batch_size * world``. The rest after the last whole step is dropped; an epoch
    shorter than one step is one smaller step.

    A ``DistributedSampler``, because Lightning does not replace those and calls their ``set_epoch``.

    Args:
        dataset: The images.
        batch_size: Images of a batch on each device.
        seed: The run's seed.
        world: Number of devices.
        rank: This device's number.

    Raises:
        UserError: If there is no whole step and the images cannot be shared out evenly.
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
        """This device's pairs for the epoch that was set."""
        key = fold(episode_keys(self.seed, torch.tensor([self.epoch])), Stream.EPOCH_ORDER)
        order = uniform(key, (self._count,), torch.float64)[0].argsort(stable=True)
        own = order[self.rank :: self.num_replicas][: self._share]
        return iter([(self.epoch, position) for position in own.tolist()])

    def __len__(self) -> int:
        """Number of this device's pairs, the same on all devices."""
        return self._share
