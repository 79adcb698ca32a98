"""Any of the benchmarks as batches: found below one folder, whole or in part, clean or corrupted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from lorattt.data import note
from lorattt.data.catalogue import benchmark
from lorattt.data.check import problems
from lorattt.data.corruptions import CorruptedImages, CorruptionSpec
from lorattt.data.datamodule import EpisodeData
from lorattt.data.download import CifarImages, download
from lorattt.data.file_list import FileList, ListedImages, read_image_list
from lorattt.data.images import MAX_PIXELS, check_max_pixels
from lorattt.data.layouts import read_benchmark
from lorattt.data.source import ImageSource
from lorattt.data.splits import Classes, few_shot, keep_classes
from lorattt.errors import UserError, shortened

_CIFAR = ("cifar10", "cifar100")
_Read = TypeVar("_Read")


class BenchmarkData(EpisodeData):
    """One of the fifteen benchmarks, or CIFAR-10 or -100.

    Args:
        dataset: Its key: imagenet, imagenet_a, imagenet_v2, imagenet_r, imagenet_sketch, flowers102, dtd, oxford_pets,
            stanford_cars, ucf101, caltech101, food101, sun397, fgvc_aircraft, eurosat, cifar10 or cifar100.
        data_root: Folder that holds the datasets, each in the layout of CoOp, TPT, ZERO or torchvision.
        split: Which images; ``val`` and ``test`` of ImageNet are both its validation images.
        path: This dataset's own folder, if it lies elsewhere or has another name.
        splits: Folder of CoOp's split files, if they do not lie beside the data.
        classes: ``all``; ``base`` for the first half of the labels or ``new`` for the rest, relabelled from 0; or
            a list of names or 0-based numbers, relabelled in that order.
        shots: Draw so many images of each class; all where null.
        items: A list of images that an earlier run wrote, in place of drawing: the same images again.
        corruption: One of ImageNet-C's corruptions, at a severity from 1 to 5.
        download: Fetch the dataset into ``data_root`` if it is not there, where torchvision can.
        draw_seed: Seed of the drawing of images and of the corruption: which images, not the run's randomness.
        max_pixels: The largest width times height that is read; above it, an image counts as unreadable.
        kwargs: The arguments of :class:`ImageData`.

    Attributes:
        template: CoOp's prompt for the dataset, with one ``{}``; null for CIFAR.
        corruption: ``name``, ``severity`` and ``of``, the clean images' name, for ``results.json``; null if clean.
    """

    def __init__(
        self,
        dataset: str,
        data_root: str = "data",
        *,
        split: Literal["train", "val", "test"] = "test",
        path: str | None = None,
        splits: str | None = None,
        classes: Classes = "all",
        shots: int | None = None,
        items: str | None = None,
        corruption: CorruptionSpec | None = None,
        download: bool = False,
        draw_seed: int = 1,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        check_max_pixels(max_pixels)  # before lists are read or anything is fetched
        self.template: str | None = None
        self.corruption: dict[str, str | int] | None = None
        if dataset in _CIFAR:
            if classes != "all" or shots is not None or items is not None or path or splits:
                raise UserError(f"data.dataset {dataset}: classes, shots, items, path and splits are not for CIFAR")
            root = Path(data_root).expanduser()
            source: ImageSource = _found(lambda: CifarImages(dataset, root, split), dataset, root, download)
        else:
            self.template = benchmark(dataset).template
            listing = read_part(dataset, data_root, split, classes, download, path=path, splits=splits)
            if items is not None:
                if shots is not None:
                    raise UserError("data.items and data.shots are both given: a list is not drawn from again")
                listing = listed_in(Path(items).expanduser(), listing)
            elif shots is not None:
                listing = self.drawn = few_shot(listing, shots, draw_seed)
            source = ListedImages(part_name(dataset, shots, items, split, classes), listing, max_pixels)
        if corruption is not None:
            self.corruption = {"name": corruption.name, "severity": corruption.severity, "of": source.name}
            source = CorruptedImages(source, corruption, draw_seed)
        super().__init__(source, **kwargs)


def read_part(
    dataset: str,
    data_root: str,
    split: str,
    classes: Classes,
    download: bool = False,
    *,
    path: str | None = None,
    splits: str | None = None,
) -> FileList:
    """The images of some classes of a benchmark's split; warns of what is wrong with a dataset that can be read."""
    given = {key: Path(folder) for key, folder in (("path", path), ("splits", splits)) if folder}
    root = Path(data_root).expanduser()
    listing, located = _found(lambda: read_benchmark(dataset, root, split, **given), dataset, root, download)
    for problem in problems(benchmark(dataset), listing, located):
        note(f"{dataset}: {problem}")
    return keep_classes(listing, classes)


def _found(read: Callable[[], _Read], dataset: str, root: Path, fetch: bool) -> _Read:
    """The result of ``read``; if it finds nothing and may fetch, after a download."""
    try:
        return read()
    except UserError:
        # One process of each machine fetches; launchers number them before anything starts.
        if not fetch or any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "SLURM_LOCALID")):
            raise
    download(dataset, root)
    return read()


def listed_in(file: Path, listing: FileList) -> FileList:
    """The images of an earlier run's list, which must be of the same classes as now."""
    found = read_image_list(file, listing.root)
    what = f"data.items {file}"
    if found.class_names != listing.class_names:
        raise UserError(
            f"{what}: its {len(found.class_names)} classes are not the {len(listing.class_names)} of data.dataset and "
            "data.classes: give the values of the run that wrote it"
        )
    known = set(listing.samples)
    if other := next((sample for sample in found.samples if sample not in known), None):
        raise UserError(f"{what}: {shortened(other.path)} with label {other.label} is not among the split's images")
    return found


def part_name(name: str, shots: int | None, items: str | None, split: str = "test", classes: Classes = "all") -> str:
    """What results call a part of a dataset; the whole test split has the dataset's own name."""
    if split != "test":
        name += f"-{split}"
    if classes != "all":
        name += f"-{classes}" if isinstance(classes, str) else f"-{len(classes)}-classes"
    if items is not None:
        return f"{name}-listed"
    return name if shots is None else f"{name}-{shots}-shot"
