"""Base DataModules: batches of episodes, each image on exactly one device."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from lorattt.data.file_list import UNKNOWN_LABEL, FileList, write_image_list
from lorattt.data.loader import EpisodeLoader
from lorattt.data.source import EpisodeDataset, ExactShard, ImageSource, Planner, Transform, chosen
from lorattt.errors import UserError
from lorattt.inputs import at_least


class ImageData(LightningDataModule):
    """Base of all DataModules: checks their shared arguments, makes loaders, and handles unreadable images.

    Subclasses hand these arguments on as ``**kwargs``. The method sets ``transform``, which makes the views of an image
    that is not trained on, before the loaders are made: views belong to the method. Without one, batches hold
    ``image``, a list of ``(3, H, W)`` uint8 tensors at their own sizes, in place of ``views``.

    Args:
        batch_size: Images adapted at once (E). Predictions do not depend on it.
        workers: Processes that read images and make views.
        prefetch: Batches each worker prepares ahead.
        limit: Use only so many images, evenly spread over the dataset; all where null.
        on_bad_image: ``error`` ends the run at an unreadable image; ``skip`` leaves it out, counts it and reports it.

    Attributes:
        fetched_at: When the last batch came from the loader, on the clock of ``time.perf_counter``.
        drawn: The images of this run, if they were drawn; a run keeps the list in its folder.
    """

    drawn: FileList | None = None

    def __init__(
        self,
        *,
        batch_size: int = 8,
        workers: int = 2,
        prefetch: int = 2,
        limit: int | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__()
        at_least(1, data__batch_size=batch_size, data__prefetch=prefetch)
        at_least(0, data__workers=workers)
        at_least(1, ", or null for all images", data__limit=limit)
        self._batch_size, self._workers, self._prefetch = batch_size, workers, prefetch
        self._limit, self._on_bad_image = limit, on_bad_image
        self.transform: Transform | None = None
        self.fetched_at: float | None = None

    def keep_images(self, file: Path) -> None:
        """Write the list of images that were drawn, if they were, for ``data.items`` of another run."""
        if self.drawn is not None:
            write_image_list(self.drawn, file)

    def _world_and_rank(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, dataset: Dataset[dict[str, Any]], sampler: Sampler[Any]) -> DataLoader[dict[str, Any]]:
        device = None if self.trainer is None else self.trainer.strategy.root_device
        loader = EpisodeLoader(
            dataset,
            batch_size=self._batch_size,
            sampler=sampler,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            prefetch_factor=self._prefetch if self._workers else None,
        )
        loader.send_to = device if device is not None and device.type == "cuda" else None
        return loader

    def _in_order(
        self, source: ImageSource, indices: list[int], transform: Transform | None, planner: Planner | None = None
    ) -> DataLoader[dict[str, Any]]:
        """This device's share of the images, in order."""
        world, rank = self._world_and_rank()
        dataset = EpisodeDataset(source, indices, transform, planner)
        return self._loader(dataset, ExactShard(dataset, world, rank))

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Raise :class:`UserError` for an unreadable image if ``on_bad_image`` is ``error``."""
        # Here, since an exception from a worker would arrive wrapped in a traceback.
        self.fetched_at = time.perf_counter()
        if batch["skipped"] and self._on_bad_image == "error":
            bad = batch["skipped"][0]
            what = f"cannot read image {bad['path']} ({bad['reason']})"
            raise UserError(f"{what}: fix or remove it, or set data.on_bad_image to skip")
        return batch


class EpisodeData(ImageData):
    """Batches of episodes, for test and predict; subclasses say which images.

    With a ``planner`` in place of a ``transform``, batches also hold the ``plan`` by which the method makes the views.

    Args:
        source: The images; their ``class_names`` are empty where they have no classes.
        kwargs: The arguments of :class:`ImageData`.
    """

    def __init__(self, source: ImageSource, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.name = source.name
        self.class_names = source.class_names
        self.indices = chosen(source, self._limit)
        self.planner: Planner | None = None
        self._left: list[int] | None = None  # those of ``indices`` that are to do; None for all

    def leave_out(self, done: Mapping[int, str], again: Collection[int]) -> None:
        """Skip the images that are ``done``, number to path, by earlier attempts of the run, from the next loader on.

        Those to be tried ``again``, which could not be read, come last, so that the others form the same batches as in
        a run without interruption.
        """
        known, last = set(self.indices), set(again)
        for index, path in done.items():
            now = self.source.path(index) if index in known else "no longer there"
            if now != path:
                raise UserError(
                    f"{self.name} has changed since the run began: image {index} was {path} and is {now}: "
                    "name another run.folder"
                )
        left = [index for index in self.indices if index not in done]
        self._left = sorted(left, key=last.__contains__)  # stable

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All images; raises :class:`UserError` if they have no labels."""
        if not self.class_names or all(self.source.label(index) == UNKNOWN_LABEL for index in self.indices):
            raise UserError(
                f"{self.name} has no class folders, so no labels to test against: put the images of each class "
                "in a folder of its own, or use predict with model.class_names"
            )
        return self.predict_dataloader()

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The same as :meth:`test_dataloader`."""
        return self.test_dataloader()

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All images, labelled or not."""
        if not self.indices:
            raise UserError(f"{self.name} has no images")
        indices = self.indices if self._left is None else self._left
        return self._in_order(self.source, indices, self.transform, self.planner)
