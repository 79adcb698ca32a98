"""The interface of an image set, the datasets of its episodes, their order on each device, and their batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from lorattt.data.images import UnreadableImageError
from lorattt.errors import UserError
from lorattt.rng import Stream, random_order

Array: TypeAlias = npt.NDArray[Any]
Transform = Callable[[Image.Image, int], Tensor]
TrainTransform = Callable[[Image.Image, int, int], Tensor]
"""Image, dataset-wide number and epoch to ``(1, 3, S, S)`` uint8."""
Planner = Callable[[int, int, int], Any]
"""Height, width and dataset-wide number of an image to a plan of its views, which can join others of its kind."""


class ImageSource(Protocol):
    """Numbered images with labels. Numbers are dataset-wide and never change with limits or shards.

    They are 0 to ``len - 1``; a part of something larger may keep its numbers there, and has them in ``numbers``.
    """

    name: str
    class_names: list[str]

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """The image's name in results."""

    def label(self, index: int) -> int:
        """The image's label, or -1 where unknown."""

    def read(self, index: int) -> Image.Image:
        """The image, RGB; raises :class:`UnreadableImageError` if it cannot be decoded."""


def numbers_of(source: ImageSource) -> Sequence[int]:
    """The dataset-wide numbers of a source's images; their places where it has none of its own."""
    found: Sequence[int] = getattr(source, "numbers", range(len(source)))
    return found


class WrappedImages:
    """Another source's images, which subclasses read in their own way."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.name, self.class_names = source.name, source.class_names
        self.numbers = numbers_of(source)

    def __len__(self) -> int:
        return len(self.source)

    def path(self, index: int) -> str:
        """The other source's path."""
        return self.source.path(index)

    def label(self, index: int) -> int:
        """The other source's label."""
        return self.source.label(index)


def spread(count: int, limit: int | None) -> list[int]:
    """At most ``limit`` of ``count`` numbers, evenly spread, so that sorted classes are all represented."""
    if limit is None or limit >= count:
        return list(range(count))
    return [position * count // limit for position in range(limit)]


def chosen(source: ImageSource, limit: int | None) -> list[int]:
    """The dataset-wide numbers of at most ``limit`` images, evenly spread."""
    numbers = numbers_of(source)
    return [numbers[position] for position in spread(len(source), limit)]


def read_episode(
    source: ImageSource, index: int, transform: Transform | None, planner: Planner | None = None
) -> dict[str, Any]:
    """One image as an episode: ``index``, ``path``, ``label``, and ``views``, or ``image`` with its ``plan`` if any.

    The image is a read-only array ``(H, W, 3)`` uint8; the batch makes the one copy. An unreadable image has
    ``reason`` instead.
    """
    item = {"index": index, "path": source.path(index), "label": source.label(index)}
    try:
        image = source.read(index)
    except UnreadableImageError as error:
        return {**item, "reason": str(error)}
    if transform is not None:
        return {**item, "views": transform(image, index)}
    plan = {} if planner is None else {"plan": planner(image.height, image.width, index)}
    return {**item, "image": np.asarray(image), **plan}


class EpisodeDataset(Dataset[dict[str, Any]]):
    """Episodes of a source: the views of each image, made from (seed, index) alone, or the image itself.

    ``indices`` are dataset-wide numbers. ``transform`` makes ``(V, 3, S, S)`` uint8 views; without one, images are left
    as decoded, and ``planner`` plans their views.
    """

    def __init__(
        self,
        source: ImageSource,
        indices: list[int],
        transform: Callable[..., Tensor] | None,
        planner: Planner | None = None,
    ) -> None:
        self._source, self._indices, self._transform, self._planner = source, indices, transform, planner

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One episode, see :func:`read_episode`."""
        return read_episode(self._source, self._indices[position], self._transform, self._planner)


class TrainingDataset(EpisodeDataset):
    """One view of each image, made from (seed, index, epoch) alone; without a transform, the image itself."""

    def __getitem__(self, place: tuple[int, int] | int) -> dict[str, Any]:
        """The episode of an epoch and a position.

        A position alone, as the sampler of Lightning's ``overfit_batches`` gives it, is one of epoch 0.
        """
        epoch, position = (0, place) if isinstance(place, int) else place
        cut = self._transform
        of_epoch = None if cut is None else lambda image, index: cut(image, index, epoch)
        return read_episode(self._source, self._indices[position], of_epoch)


def pack(items: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Array]]:
    """Collate episodes, without tensors, for a transfer between processes: the facts, and the pixels of each image.

    Images that cannot be read are listed under ``skipped`` with ``index``, ``path`` and ``reason``. Plans become one.
    """
    good = [item for item in items if "reason" not in item]
    kind = "image" if good and "image" in good[0] else "views"
    arrays = [np.asarray(item[kind]) for item in good]
    message: dict[str, Any] = {
        "label": np.array([item["label"] for item in good], dtype=np.int64),
        "index": np.array([item["index"] for item in good], dtype=np.int64),
        "path": [item["path"] for item in good],
        "skipped": [{key: item[key] for key in ("index", "path", "reason")} for item in items if "reason" in item],
        "kind": kind,
        "shapes": [array.shape for array in arrays],
    }
    if good and "plan" in good[0]:
        plans = [item["plan"] for item in good]
        message["plan"] = plans[0].join(plans)
    return message, arrays


def flat(arrays: list[Array]) -> Array:
    """A copy of all numbers, one array after another."""
    return np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.empty(0, dtype=np.uint8)


def unpack(message: dict[str, Any], pixels: Array) -> dict[str, Any]:
    """The batch of what :func:`pack` gives; its tensors are views of ``pixels``, the arrays one after another.

    Views are stacked, ``(E, V, 3, S, S)``; images, each of its own size, are a list of ``(3, H, W)`` tensors, uint8.
    """
    batch = dict(message)
    kind, shapes = batch.pop("kind"), batch.pop("shapes")
    for key in ("label", "index"):
        batch[key] = torch.from_numpy(batch[key])
    memory = torch.from_numpy(pixels)
    if kind == "views":
        return {**batch, "views": memory.view(len(shapes), *shapes[0]) if shapes else memory}
    parts = memory.split([math.prod(shape) for shape in shapes])
    return {**batch, "image": [part.view(shape).permute(2, 0, 1) for part, shape in zip(parts, shapes, strict=True)]}


def collate_episodes(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of episodes, see :func:`pack` and :func:`unpack`."""
    message, arrays = pack(items)
    return unpack(message, flat(arrays))


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
        order = random_order(self.seed, self.epoch, Stream.EPOCH_ORDER, self._count)
        own = order[self.rank :: self.num_replicas][: self._share]
        return iter([(self.epoch, position) for position in own.tolist()])

    def __len__(self) -> int:
        return self._share
