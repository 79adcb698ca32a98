"""DataModule for fit: training images, shuffled and cropped anew in every epoch, and validation images."""

import warnings
from typing import Any

import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch.utils.data import DataLoader

from lorattt.data.datamodule import ImageData
from lorattt.data.file_list import UNKNOWN_LABEL
from lorattt.data.source import EpochShard, ImageSource, TrainingDataset, TrainTransform, WrappedImages, chosen
from lorattt.errors import UserError

CACHE_BYTES = 1 << 30
"""How much of the decoded training images is kept in memory on each device, by all its workers together."""


class CachedImages(WrappedImages):
    """Keeps the decoded images that are read first in memory, up to ``room`` bytes, at three a pixel."""

    def __init__(self, source: ImageSource, room: int) -> None:
        super().__init__(source)
        self.room, self.kept_bytes = room, 0
        self._kept: dict[int, np.ndarray[Any, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Without the kept images: each process reads its own.
        return {**self.__dict__, "_kept": {}, "kept_bytes": 0}

    def read(self, index: int) -> Image.Image:
        """The image, RGB; a copy, so that changes to it are not kept."""
        if index in self._kept:
            return Image.fromarray(self._kept[index])
        image = self.source.read(index)
        size = 3 * image.width * image.height
        if self.kept_bytes + size <= self.room:
            self._kept[index] = np.asarray(image)
            self.kept_bytes += size
        return image


class SourceData(ImageData):
    """Images to fit on, and images to validate on; subclasses say which.

    The method also sets ``train_transform`` and ``seed``. Training batches are ``{"views" (B, 1, 3, S, S) uint8,
    "label" (B,), "index" (B,), "path", "skipped"}``, smaller, even empty, where images are left out.

    Args:
        train: The images to fit on, labelled.
        validation: The images to validate on, of the same classes; null for none.
        batch_size: Images of a batch, on each device: a step of two devices has twice as many.
        limit: Use only so many images of each of the two, evenly spread; all where null.
        cache: Keep decoded training images in memory, up to a gigabyte on each device, shared out to its workers.
            Results do not depend on it.
        kwargs: The other arguments of :class:`ImageData`.

    Attributes:
        class_names: Names in label order.
        template: The dataset's own prompt, with one ``{}``; null where it has none.
        seed: Seed of the order of each epoch.
        skipped: Path and reason of each image that was left out.
    """

    def __init__(
        self,
        train: ImageSource,
        validation: ImageSource | None = None,
        *,
        batch_size: int = 32,
        limit: int | None = None,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, limit=limit, **kwargs)
        self.name = train.name
        self.class_names = train.class_names
        self.template: str | None = None
        self.source = CachedImages(train, CACHE_BYTES // max(1, self._workers)) if cache else train
        self.validation = validation
        self.indices = _labelled(train, limit, "training")
        self.validation_indices = [] if validation is None else _labelled(validation, limit, "validation")
        if validation is not None and validation.class_names != train.class_names:
            raise UserError(f"{self.name}: the validation images have other classes than the training images")
        self.train_transform: TrainTransform | None = None
        self.seed = 0
        self.skipped: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        """Reject stages that these images are not for, before anything is computed."""
        if stage in ("test", "predict"):
            own = type(self).__name__
            raise UserError(f"{own} is for fit: to {TrainerFn(stage).value}, use BenchmarkData or DemoData")
        if stage == "validate" and self.validation is None:
            raise UserError(f"{self.name} has no validation images: use data.validation, or BenchmarkData or DemoData")

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole batches of training images, in another order in every epoch."""
        world, rank = self._world_and_rank()
        dataset = TrainingDataset(self.source, self.indices, self.train_transform)
        sampler = EpochShard(dataset, batch_size=self._batch_size, seed=self.seed, world=world, rank=rank)
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        """All validation images, in order; an empty list where there are none, so that Lightning skips it."""
        if self.validation is None:
            return []
        return self._in_order(self.validation, self.validation_indices, self.transform)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """End the run at an unreadable image, or count it and warn the first time."""
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        for bad in batch["skipped"]:
            if bad["path"] not in self.skipped:
                self.skipped[bad["path"]] = bad["reason"]
                warnings.warn(f"image {bad['path']} is left out ({bad['reason']})", stacklevel=2)
        return batch


def _labelled(source: ImageSource, limit: int | None, what: str) -> list[int]:
    """The numbers of a source's images, all of which have a label."""
    if not source.class_names:
        raise UserError(f"{source.name} has no class names: put the images of each class in a folder of its own")
    numbers = chosen(source, limit)
    if not numbers:
        raise UserError(f"{source.name} has no {what} images")
    for index in numbers:
        if source.label(index) == UNKNOWN_LABEL:
            raise UserError(f"{source.name}: {what} image {source.path(index)} has no label")
    return numbers
