"""Images of ImageNet and its variants: class folders named by wnid or number, and ImageNet's flat validation folder."""

import csv
import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Final

from lorattt.data.file_list import Sample
from lorattt.data.walk import is_image, is_no_class
from lorattt.errors import UserError, shortened
from lorattt.inputs import read_text

_FLAT: Final = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_SOLUTION: Final = "LOC_val_solution.csv"
_TRUTH: Final = "ILSVRC2012_validation_ground_truth.txt"
_CLASS_MAP: Final = "map_clsloc.txt"
_AGAIN: Final = "fetch it again"


def imagenet_names() -> dict[str, str]:
    """OpenAI's names of the 1,000 ImageNet classes by wnid; two names occur twice."""
    text = files("lorattt.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def class_folders(key: str) -> list[str]:
    """Names of a dataset's class folders in label order: sorted wnids, or for ImageNet-V2 the numbers 0 to 999."""
    if key == "imagenet_v2":
        return [str(label) for label in range(1000)]
    if key in ("imagenet_a", "imagenet_r"):
        return files("lorattt.data").joinpath(f"{key}_wnids.txt").read_text(encoding="utf-8").split()
    return list(imagenet_names())


def class_names(key: str) -> tuple[str, ...]:
    """Names in label order; of the 200-class sets, those of their own wnids."""
    names = imagenet_names()
    return tuple(names[wnid] for wnid in (names if key == "imagenet_v2" else class_folders(key)))


def holds_images(key: str, folder: Path, split: str) -> bool:
    """Whether the folder holds an image: in one of the dataset's class folders, or flat for ImageNet itself."""
    in_folders = (image for name in class_folders(key) for image in _images(folder / name))
    return any(chain(in_folders, _flat(key, folder, split)))  # a name is not empty


def read_samples(key: str, folder: Path, split: str) -> tuple[Sample, ...]:
    """The images of a folder of class folders, or for ImageNet of flat validation images, by label, then name."""
    expected = class_folders(key)
    found = {entry.name for entry in _entries(folder) if entry.is_dir() and not is_no_class(entry.name)}
    # Only without class folders: a flat copy beside them would be a second label for each image.
    if not found.intersection(expected) and (flat := sorted(_flat(key, folder, split))):
        label_of = {wnid: label for label, wnid in enumerate(expected)}
        wnids = _flat_wnids(folder, flat, label_of)
        return tuple(sorted((Sample(name, label_of[wnids[name]]) for name in flat), key=lambda sample: sample[::-1]))
    if extra := sorted(found.difference(expected)):
        raise UserError(f"{key}: class folder {folder / extra[0]} is none of its {len(expected)} classes: move it away")
    samples = []
    for label, name in enumerate(expected):
        images = sorted(_images(folder / name))
        if not images:
            state = "holds no image" if name in found else "is missing"
            raise UserError(f"{key}: class folder {folder / name} {state}: unpack the dataset again")
        samples += [Sample(f"{name}/{image}", label) for image in images]
    return tuple(samples)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return


def _images(folder: Path) -> Iterator[str]:
    return (entry.name for entry in _entries(folder) if is_image(entry.name) and entry.is_file())


def _flat(key: str, folder: Path, split: str) -> Iterator[str]:
    """Names of ImageNet's validation images directly in the folder; they are no training images."""
    flat = key == "imagenet" and split != "train"
    return (entry.name for entry in _entries(folder) if flat and _FLAT.fullmatch(entry.name))


def _flat_wnids(folder: Path, images: Sequence[str], known: Mapping[str, int]) -> dict[str, str]:
    """File name to wnid of flat validation images, from the files that give their classes."""
    devkit = Path("ILSVRC2012_devkit_t12") / "data"
    places = [place / inner for place in (folder, folder.parent) for inner in (Path(), devkit)]
    solution, truth, class_map, meta = (
        next((place / name for place in places if (place / name).is_file()), None)
        for name in (_SOLUTION, _TRUTH, _CLASS_MAP, "meta.mat")
    )
    if solution is not None:
        return _from_solution(solution, images, known)
    if truth is None:
        raise UserError(
            f"imagenet: {folder} holds flat validation images without labels: put {_SOLUTION} beside it, or {_TRUTH} "
            "and meta.mat of the ILSVRC 2012 development kit, or move the images into class folders"
        )
    numbering = class_map or meta
    if numbering is None:
        raise UserError(
            f"imagenet: {truth} has ILSVRC's class numbers, which are not in the order of the wnids: put meta.mat of "
            f"the same development kit, or {_CLASS_MAP} of a later one, beside it"
        )
    pairs = _from_class_map(numbering) if class_map else _from_meta(numbering)
    wnid_of = {number: wnid for number, wnid in pairs.items() if wnid in known}
    count = len(known)
    if sorted(wnid_of) != list(range(1, count + 1)) or len(set(wnid_of.values())) < count:
        raise UserError(f"{numbering} does not give ImageNet's {count} wnids the numbers 1 to {count}: {_AGAIN}")
    numbers = read_text(truth, _AGAIN).split()
    wnids = {}
    for image in images:
        place = int(image[len("ILSVRC2012_val_") :].partition(".")[0])
        number = numbers[place - 1] if 0 < place <= len(numbers) else "missing"
        if not number.isdecimal() or int(number) not in wnid_of:
            raise UserError(f"{truth}: line {place}, the class of {image}, is {shortened(number)}: {_AGAIN}")
        wnids[image] = wnid_of[int(number)]
    return wnids


def _from_solution(file: Path, images: Sequence[str], known: Mapping[str, int]) -> dict[str, str]:
    reader = csv.DictReader(read_text(file, _AGAIN).splitlines())
    if not {"ImageId", "PredictionString"} <= set(reader.fieldnames or ()):
        raise UserError(f"{file} has no columns ImageId and PredictionString: {_AGAIN}")
    # An image may show its class several times: "wnid box wnid box", always the same wnid.
    wnid_of = {row["ImageId"]: (row["PredictionString"] or "").partition(" ")[0] for row in reader}
    wnids = {image: wnid_of.get(image.partition(".")[0], "missing") for image in images}
    if bad := next((image for image, wnid in wnids.items() if wnid not in known), None):
        state = shortened(wnids[bad]) or "empty"
        raise UserError(f"{file}: the class of {bad} is {state}, no wnid of ImageNet: {_AGAIN}")
    return wnids


def _from_class_map(file: Path) -> dict[int, str]:
    """Lines of "wnid number name"."""
    lines = [line.split() for line in read_text(file, _AGAIN).splitlines()]
    return {int(words[1]): words[0] for words in lines if len(words) >= 2 and words[1].isdecimal()}


def _from_meta(file: Path) -> dict[int, str]:
    """The development kit's table of synsets, a Matlab file; it also numbers inner nodes, from 1001."""
    try:
        reader = importlib.import_module("scipy.io")
    except ImportError as error:
        others = f"{_CLASS_MAP} or {_SOLUTION}"
        raise UserError(f"reading {file} needs scipy: pip install scipy, or put {others} beside it") from error
    try:
        synsets = reader.loadmat(str(file), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # of scipy's many, for a damaged file or another table
        raise UserError(f"{file} is not the development kit's table of synsets: {_AGAIN}") from error
