"""Few images of each class to fit on: of a benchmark's training split, or of a user's own folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from lorattt.data.benchmark import listed_in, part_name, read_part
from lorattt.data.catalogue import benchmark
from lorattt.data.file_list import UNKNOWN_LABEL, FileList, ListedImages
from lorattt.data.folder import ImageFolder
from lorattt.data.images import MAX_PIXELS, check_max_pixels
from lorattt.data.splits import Classes, at_most, few_shot, holdout
from lorattt.data.training import SourceData
from lorattt.errors import UserError, quoted, shortened
from lorattt.inputs import at_least

Validation = Literal["val", "holdout", "none"]


class ListedSourceData(SourceData):
    """Training images that are listed, or a draw of ``whole``, and validation images; subclasses say which.

    Without ``validation``, images of ``whole`` that are not drawn are held out, unless ``val_shots`` is 0.
    """

    def __init__(
        self,
        name: str,
        whole: FileList,
        validation: FileList | None,
        *,
        shots: int | None,
        items: str | None,
        draw_seed: int,
        val_shots: int | None,
        max_pixels: int,
        **kwargs: Any,
    ) -> None:
        train = whole
        if items is not None:
            train = listed_in(Path(items).expanduser(), whole)
        elif shots is not None:
            train = few_shot(whole, shots, draw_seed)
        if validation is None and val_shots != 0:
            train, validation = _held_out(whole, train, val_shots, draw_seed)
        elif validation is not None and val_shots is not None:
            validation = at_most(validation, val_shots, draw_seed)
        if validation is not None and (both := _files(train) & _files(validation)):
            both_of = f"{name}: {shortened(min(both), 300)} is a training image and a validation image"
            raise UserError(f"{both_of}: correct the split's file")
        self.drawn = None if items is not None or train is whole else train
        super().__init__(
            ListedImages(name, train, max_pixels),
            None if validation is None else ListedImages(f"{name}-validation", validation, max_pixels),
            **kwargs,
        )


class FewShotData(ListedSourceData):
    """Few images of each class of a benchmark's training split, and images to validate on.

    Args:
        dataset: Its key: imagenet, flowers102, dtd, oxford_pets, stanford_cars, ucf101, caltech101, food101, sun397,
            fgvc_aircraft or eurosat.
        data_root: Folder that holds the datasets, each in the layout of CoOp, TPT, ZERO or torchvision.
        path: This dataset's own folder, if it lies elsewhere or has another name.
        splits: Folder of CoOp's split files, if they do not lie beside the data.
        classes: ``all``; ``base`` for the first half of the labels or ``new`` for the rest, relabelled from 0; or
            a list of names or 0-based numbers, relabelled in that order.
        shots: Training images of each class, those that BenchmarkData draws with this seed; the whole split where null.
        items: A list of images that an earlier run wrote, in place of drawing; ``shots`` is not used then.
        draw_seed: Seed of the drawing of images: which images, not the run's randomness.
        validation: ``val`` for images of the dataset's validation split, as CoOp; ``holdout`` for images of the
            training split that are not trained on; ``none``.
        val_shots: Validation images of each class, fewer where there are not as many; all where null.
        max_pixels: The largest width times height that is read; above it, an image counts as unreadable.
        kwargs: The other arguments of :class:`SourceData`.

    Attributes:
        template: CoOp's prompt for the dataset, with one ``{}``.
    """

    def __init__(
        self,
        dataset: str,
        data_root: str = "data",
        *,
        path: str | None = None,
        splits: str | None = None,
        classes: Classes = "all",
        shots: int | None = 16,
        items: str | None = None,
        draw_seed: int = 1,
        validation: Validation = "val",
        val_shots: int | None = 4,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        check_max_pixels(max_pixels)
        if validation not in get_args(Validation):
            raise UserError(f"data.validation {quoted(validation)}: use {', '.join(get_args(Validation))}")
        at_least(1, ", or null for all; none: data.validation none", data__val_shots=val_shots)
        known = benchmark(dataset)
        if "train" not in known.counts:
            raise UserError(f"data.dataset {dataset}: has test images alone, none to fit on: use imagenet")
        if validation == "val" and known.family == "imagenet":
            raise UserError(
                f"data.validation val: the validation images of {dataset} are its test images, on which nothing may "
                "be chosen: use holdout or none"
            )
        super().__init__(
            part_name(dataset, shots, items, "train", classes),
            read_part(dataset, data_root, "train", classes, path=path, splits=splits),
            read_part(dataset, data_root, "val", classes, path=path, splits=splits) if validation == "val" else None,
            shots=shots,
            items=items,
            draw_seed=draw_seed,
            val_shots=0 if validation == "none" else val_shots,
            max_pixels=max_pixels,
            **kwargs,
        )
        self.template = known.template


class FolderSourceData(ListedSourceData):
    """A user's own images to fit on, one folder per class, some of which are held out to validate on.

    Args:
        root: Folder with one folder of images per class.
        class_names: Names of the classes: null for the folders' names, a list, ``imagenet`` for folders named by
            wnid, or a ``.txt`` or ``.json`` file.
        shots: Training images of each class; all that are not held out where null.
        items: A list of images that an earlier run wrote, in place of drawing; ``shots`` is not used then.
        draw_seed: Seed of the drawing of images: which images, not the run's randomness.
        val_shots: Validation images of each class, fewer where there are not as many; 0 for no validation.
        max_pixels: The largest width times height that is read; above it, an image counts as unreadable.
        kwargs: The other arguments of :class:`SourceData`.
    """

    def __init__(
        self,
        root: str,
        *,
        class_names: list[str] | str | None = None,
        shots: int | None = None,
        items: str | None = None,
        draw_seed: int = 1,
        val_shots: int = 4,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        at_least(0, ", which is no validation", data__val_shots=val_shots)
        images = ImageFolder(Path(root).expanduser(), class_names, max_pixels)
        if any(sample.label == UNKNOWN_LABEL for sample in images.listing.samples):
            raise UserError(f"data.root {root} has no class folders: put the images of each class in one of its own")
        super().__init__(
            part_name(images.name, shots, items),
            images.listing,
            None,
            shots=shots,
            items=items,
            draw_seed=draw_seed,
            val_shots=val_shots,
            max_pixels=max_pixels,
            **kwargs,
        )


def _files(listing: FileList) -> set[str]:
    # Joined as text: pathlib takes seconds for the lists of ImageNet.
    return {f"{listing.root}/{path}" for path, _ in listing.samples}


def _held_out(whole: FileList, train: FileList, val_shots: int | None, seed: int) -> tuple[FileList, FileList]:
    """Training and validation images; the latter from those that were not drawn, if some were."""
    if train is whole:
        if val_shots is None:
            raise UserError("data.val_shots null: with all images to fit on, say how many of each class to hold out")
        return holdout(whole, val_shots, seed)
    drawn = set(train.samples)
    rest = replace(whole, samples=tuple(sample for sample in whole.samples if sample not in drawn))
    if not rest.samples:
        raise UserError(f"{whole.root}: all images are drawn to fit on, none is left to hold out: draw fewer")
    return train, rest if val_shots is None else at_most(rest, val_shots, seed)
