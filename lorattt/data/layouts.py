"""Find benchmarks in the folder layouts of CoOp, TPT, ZERO and torchvision."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from lorattt.data import imagenet_family
from lorattt.data.catalogue import Benchmark
from lorattt.data.listing import Item
from lorattt.data.split_files import SplitList, read_aircraft, read_cars_tables, read_coop
from lorattt.errors import UserError, quoted, shortened

# Key -> layout -> (dataset's folder, images below it). Layouts are tried in this order. Folders differ in case alone.
LAYOUTS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "imagenet": {
        "coop": ("imagenet", "images/{split}"),
        "tpt": ("ImageNet", "{split}"),
        "zero": ("imagenet", "{split}"),
    },
    "imagenet_a": {
        "coop": ("imagenet-adversarial", "imagenet-a"),
        "tpt": ("imagenet-a", ""),
        "zero": ("imagenet-a", ""),
    },
    "imagenet_v2": {
        "coop": ("imagenetv2", "imagenetv2-matched-frequency-format-val"),
        "tpt": ("imagenetv2-matched-frequency-format-val", ""),
        "zero": ("imagenetv2-matched-frequency-format-val", ""),
    },
    "imagenet_r": {
        "coop": ("imagenet-rendition", "imagenet-r"),
        "tpt": ("imagenet-r", ""),
        "zero": ("imagenet-r", ""),
    },
    "imagenet_sketch": {
        "coop": ("imagenet-sketch", "images"),
        "tpt": ("ImageNet-Sketch", ""),
        "zero": ("imagenet-sketch", ""),
    },
    "flowers102": {
        "coop": ("oxford_flowers", "jpg"),
        "tpt": ("Flower102", "jpg"),
        "zero": ("flower102", "jpg"),
        "torchvision": ("flowers-102", "jpg"),
    },
    "dtd": {
        "coop": ("dtd", "images"),
        "tpt": ("DTD", "images"),
        "zero": ("dtd", "images"),
        "torchvision": ("dtd", "dtd/images"),
    },
    "oxford_pets": {
        "coop": ("oxford_pets", "images"),
        "tpt": ("OxfordPets", ""),
        "zero": ("oxford_pets", "images"),
        "torchvision": ("oxford-iiit-pet", "images"),
    },
    "stanford_cars": {
        "coop": ("stanford_cars", ""),
        "tpt": ("StanfordCars", ""),
        "zero": ("stanford_cars", "images"),
        "torchvision": ("stanford_cars", ""),
    },
    "ucf101": {
        "coop": ("ucf101", "UCF-101-midframes"),
        "tpt": ("UCF101", ""),
        "zero": ("ucf101", "images"),
    },
    "caltech101": {
        "coop": ("caltech-101", "101_ObjectCategories"),
        "tpt": ("Caltech101", ""),
        "zero": ("caltech-101", "images"),
        "torchvision": ("caltech101", "101_ObjectCategories"),
    },
    "food101": {
        "coop": ("food-101", "images"),
        "tpt": ("Food101", "images"),
        "zero": ("food101", "images"),
        "torchvision": ("food-101", "images"),
    },
    "sun397": {
        "coop": ("sun397", "SUN397"),
        "tpt": ("SUN397", ""),
        "zero": ("sun397", "images"),
        "torchvision": ("SUN397", ""),
    },
    "fgvc_aircraft": {
        "coop": ("fgvc_aircraft", "images"),
        "tpt": ("fgvc_aircraft", "images"),
        "zero": ("fgvc_aircraft", "images"),
        "torchvision": ("fgvc-aircraft-2013b", "data/images"),
    },
    "eurosat": {
        "coop": ("eurosat", "2750"),
        "tpt": ("eurosat", ""),
        "zero": ("eurosat", "images"),
        "torchvision": ("eurosat", "2750"),
    },
}
OWN_PATH: Final = "path"  # the layout of a dataset that the user pointed at
LOOKS: Final = 32  # how many of the listed images are looked for, to tell whether a dataset is there


@dataclass(frozen=True)
class Located:
    """The place of a split of a dataset.

    Attributes:
        layout: ``coop``, ``tpt``, ``zero`` or ``torchvision``, the first of them where some agree; ``path``
            for a folder the user named.
        folder: The folder that the images' paths are relative to.
        split_file: The file that lists the images; null where class folders do.
        absent: Those of the listed images that were looked for, spread over the list, and are not there.
    """

    layout: str
    folder: Path
    split_file: Path | None
    absent: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A folder to look into: its layout, the dataset's folder, and the images' folder in or at it."""

    layout: str
    base: Path
    folder: Path


def find(
    benchmark: Benchmark, data_root: Path, split: str, *, path: Path | None = None, splits: Path | None = None
) -> tuple[Located, SplitList | None]:
    """Find a split: the first place that has all images that are looked for, else the one that has most.

    Args:
        benchmark: The dataset.
        data_root: Folder of all datasets.
        split: ``train``, ``val`` or ``test``.
        path: The dataset's own folder, if it lies elsewhere or has another name; only it is looked at.
        splits: Folder of CoOp's split files, looked at before the places beside the data.

    Returns:
        Where it lies, and the list of its images; None where class folders take the place of a list.
    """
    if split not in benchmark.counts:
        raise UserError(f"{benchmark.key} has no {quoted(split)} split: use {' or '.join(benchmark.counts)}")
    root, named = data_root.expanduser(), None if path is None else path.expanduser()
    for folder, key in ((named or root, "data_root" if named is None else "path"), (splits, "splits")):
        if folder is not None and not folder.expanduser().is_dir():
            raise UserError(f"{key} {folder}: no such folder")
    places = list(_places(benchmark.key, root, split, named))
    there = [place for place in places if named is not None or _exists(root, place.folder)]
    looked: list[Path] = []
    read = _reader(benchmark, root, split, splits and splits.expanduser(), looked)
    first, best = "", list[tuple[Located, SplitList]]()
    for place in there:
        if benchmark.family == "imagenet":
            if imagenet_family.holds_images(benchmark.key, place.folder, split):
                return Located(place.layout, place.folder, None), None
            continue
        listed = read(place)
        if listed is not None:
            absent = _absent(place.folder, listed.items)
            if len(absent) < len(looked_for(listed.items)):
                best.append((Located(place.layout, place.folder, listed.file, absent), listed))
            if not absent:
                break
            first = f" (first: {shortened(absent[0])})"
    if best:
        return min(best, key=lambda found: len(found[0].absent))
    if there and looked and not first:
        raise UserError(
            f"{benchmark.key}: no list of its images ({looked[0].name}) in {_shown(root, looked)}: "
            "put it into one of these folders, or name its folder with splits"
            if benchmark.split_file
            else f"{benchmark.key}: no list of its images at {_shown(root, looked, whole=True)}: put it there"
        )
    raise UserError(
        f"{benchmark.key}: no images of its {split} split{first} in "
        f"{_shown(root, [each.folder for each in places], whole=True)}: "
        "put them into one of these folders, or name the dataset's folder with path"
    )


def _places(key: str, root: Path, split: str, path: Path | None) -> Iterator[Candidate]:
    """Each folder once, under its first layout's name."""
    seen = set()
    inner_split = "train" if split == "train" else "val"  # ImageNet is tested on its validation images
    for layout, (base, inner) in LAYOUTS[key].items():
        inner = inner.format(split=inner_split)
        place = Candidate(layout, root / base, root / base / inner)
        if path is not None:
            place = Candidate(OWN_PATH, path, path / inner)
        if place.folder not in seen:
            seen.add(place.folder)
            yield place
    if path is not None and path not in seen:
        yield Candidate(OWN_PATH, path, path)


def _exists(root: Path, folder: Path) -> bool:
    """Whether the folder exists with just this spelling.

    Asked of each parent's list of names: a file system that ignores case would find ``dtd`` at ``DTD``, and
    the dataset would be reported in a layout that it is not in.
    """
    at = root
    for part in folder.relative_to(root).parts:
        try:
            names = os.listdir(at)
        except OSError:
            return False
        if part not in names:
            return False
        at = at / part
    return at.is_dir()


def _reader(
    benchmark: Benchmark, root: Path, split: str, splits: Path | None, looked: list[Path]
) -> Callable[[Candidate], SplitList | None]:
    """A function that gives the list of a place's images, if there is one; notes in ``looked`` where it was sought."""
    done: dict[Path, SplitList] = {}

    def first(candidates: list[Path], load: Callable[[Path], SplitList]) -> SplitList | None:
        looked.extend(candidate for candidate in candidates if candidate not in looked)
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is not None and file not in done:
            done[file] = load(file)  # several places may share it, and it may be large
        return None if file is None else done[file]

    def read(place: Candidate) -> SplitList | None:
        if benchmark.split_file is None:
            lists = [folder / f"images_variant_{split}.txt" for folder in (place.folder.parent, place.folder)]
            return first(lists, lambda file: read_aircraft(file.parent, split))
        folders = [splits] if splits else []
        folders += [place.base, place.folder, root / "data_splits", root / "splits"]
        spellings = (benchmark.split_file, benchmark.split_file.lower())
        found = first([folder / name for folder in folders for name in spellings], lambda file: read_coop(file, split))
        if benchmark.key == "stanford_cars":
            if found is None:
                tables = [place.folder.parent / "annots" / "split_coop.csv"]
                return first(tables, lambda file: read_cars_tables(file.parent, split))
            return _as_they_lie(found, place.folder)
        return found

    return read


def looked_for(items: Sequence[Item]) -> Sequence[Item]:
    """At most :data:`LOOKS` images, evenly spread from the first to the last."""
    if len(items) <= LOOKS:
        return items
    return [items[place * (len(items) - 1) // (LOOKS - 1)] for place in range(LOOKS)]


def _absent(folder: Path, items: Sequence[Item]) -> tuple[str, ...]:
    return tuple(item.path for item in looked_for(items) if not (folder / item.path).is_file())


def _as_they_lie(listed: SplitList, folder: Path) -> SplitList:
    """ZERO keeps the images of ``cars_test`` in ``test``: paths as they are there, if more are there by these."""
    items = tuple(Item(item.path.removeprefix("cars_"), item.label) for item in listed.items)
    renamed = len(_absent(folder, items)) < len(_absent(folder, listed.items))
    return SplitList(listed.file, items, listed.class_names) if renamed else listed


def _shown(root: Path, paths: list[Path], *, whole: bool = False) -> str:
    """Folders as text: those below the folder of all datasets by their place in it."""
    folders = dict.fromkeys(path if whole else path.parent for path in paths)
    below = [str(folder.relative_to(root)) for folder in folders if folder.is_relative_to(root)]
    other = [str(folder) for folder in folders if not folder.is_relative_to(root)]
    return ", ".join(
        other + ([f"{root}/{{{', '.join(below)}}}" if len(below) > 1 else f"{root}/{below[0]}"] if below else [])
    )
