"""Find a benchmark in the folder layouts of CoOp, TPT, ZERO and torchvision, and read its images and labels.

A benchmark whose images are listed in a new way needs a case in :func:`_lists` and in :func:`_read`.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from lorattt.data import imagenet_family
from lorattt.data.catalogue import Benchmark, benchmark
from lorattt.data.file_list import FileList, Sample
from lorattt.data.split_files import Listed, read_aircraft, read_cars_tables, read_coop
from lorattt.errors import UserError, quoted, shortened

OWN_PATH: Final = "path"  # the layout of a dataset that the user pointed at
LOOKS: Final = 32  # how many of the listed images are looked for, to see whether a dataset is there


@dataclass(frozen=True)
class Located:
    """Where a split of a benchmark was found."""

    layout: str  # ``coop``, ``tpt``, ``zero`` or ``torchvision``, the first that fits; ``path`` for a user's folder
    split_file: Path | None  # the file that lists the images; None where class folders do
    absent: tuple[str, ...]  # the images that were looked for, spread over the list, and are not there


class Place(NamedTuple):
    """A folder to look into."""

    layout: str
    base: Path  # the dataset's folder
    folder: Path  # the images' folder, in it or itself


def read_benchmark(
    key: str, data_root: Path, split: str = "test", *, path: Path | None = None, splits: Path | None = None
) -> tuple[FileList, Located]:
    """The images of one split, in the order of the file that lists them, else by label and name; and where they are.

    That is the first place that has all images that are looked for, else the one that has most. With ``path``, the
    dataset's own folder, only that is looked at; ``splits``, a folder of CoOp's split files, comes before the places
    beside the data. Class names have spaces where a list has underscores: they go into prompts, and are never keys.
    """
    known = benchmark(key)
    if split not in known.counts:
        raise UserError(f"{key} has no {quoted(split)} split: use {' or '.join(known.counts)}")
    root, named = data_root.expanduser(), path and path.expanduser()
    for folder, what in ((named or root, "path" if named else "data_root"), (splits, "splits")):
        if folder is not None and not folder.expanduser().is_dir():
            raise UserError(f"{what} {folder}: no such folder")
    places = list(_places(known, root, split, named))
    read = cache(_read)  # several places may share a list, and it may be large
    looked: list[Path] = []
    candidates: list[tuple[FileList, Located]] = []
    for place in (each for each in places if named or _exists(root, each.folder)):
        lists = _lists(known, place, split, root, splits and splits.expanduser())
        looked += lists
        file = next((each for each in lists if each.is_file() or each == place.folder), None)
        if file is not None:
            listing = FileList(place.folder, *read(key, file, split))
            listing = _renamed(listing) if known.lists == "cars" else listing
            split_file = None if file == place.folder else file
            candidates.append((listing, Located(place.layout, split_file, _absent(listing))))
            if not candidates[-1][1].absent:
                break
    found = [(listing, at) for listing, at in candidates if len(at.absent) < len(looked_for(listing.samples))]
    if not found:
        folders = [place.folder for place in places]
        raise _not_found(known, root, split, folders, looked, [at.absent[0] for _, at in candidates])
    listing, located = min(found, key=lambda each: len(each[1].absent))
    if (count := len(listing.class_names)) != known.classes:
        where = f"{key}: {located.split_file} has {count} classes"
        raise UserError(f"{where}, but the dataset has {known.classes}: fetch the file again")
    return listing, located


def _places(known: Benchmark, root: Path, split: str, path: Path | None) -> Iterator[Place]:
    """Each folder once, under its first layout's name."""
    seen = set()
    inner_split = "train" if split == "train" else "val"  # ImageNet is tested on its validation images
    for layout, (base, inner) in known.layouts.items():
        inner = inner.format(split=inner_split)
        place = Place(OWN_PATH, path, path / inner) if path else Place(layout, root / base, root / base / inner)
        if place.folder not in seen:
            seen.add(place.folder)
            yield place
    if path and path not in seen:
        yield Place(OWN_PATH, path, path)


def _exists(root: Path, folder: Path) -> bool:
    """Whether the folder exists with just this spelling."""
    # A file system that ignores case would find ``dtd`` at ``DTD``, in a layout that the dataset is not in.
    parts = [part for part in (folder, *folder.parents) if part != root and part.is_relative_to(root)]
    try:
        return folder.is_dir() and all(part.name in os.listdir(part.parent) for part in parts)
    except OSError:
        return False


def _lists(known: Benchmark, place: Place, split: str, root: Path, splits: Path | None) -> list[Path]:
    """The files that may list a place's images, the first to be tried first; class folders are their own list."""
    if known.lists == "class_folders":
        return [place.folder] if imagenet_family.holds_images(known.key, place.folder, split) else []
    if known.lists == "aircraft":
        return [folder / f"images_variant_{split}.txt" for folder in (place.folder.parent, place.folder)]
    assert known.split_file is not None
    folders = [*([splits] if splits else []), place.base, place.folder, root / "data_splits", root / "splits"]
    lists = [folder / name for folder in folders for name in (known.split_file, known.split_file.lower())]
    return [*lists, place.folder.parent / "annots" / "split_coop.csv"] if known.lists == "cars" else lists


def _read(key: str, file: Path, split: str) -> Listed:
    """The images and class names that a file lists, or that a folder of class folders has."""
    if benchmark(key).lists == "class_folders":
        return imagenet_family.read_samples(key, file, split), imagenet_family.class_names(key)
    if file.suffix == ".txt":
        return read_aircraft(file)
    return read_cars_tables(file, split) if file.suffix == ".csv" else read_coop(file, split)


def looked_for(samples: Sequence[Sample]) -> Sequence[Sample]:
    """At most :data:`LOOKS` images, evenly spread from the first to the last."""
    if len(samples) <= LOOKS:
        return samples
    return [samples[place * (len(samples) - 1) // (LOOKS - 1)] for place in range(LOOKS)]


def _absent(listing: FileList) -> tuple[str, ...]:
    return tuple(each.path for each in looked_for(listing.samples) if not (listing.root / each.path).is_file())


def _renamed(listing: FileList) -> FileList:
    """ZERO keeps the images of ``cars_test`` in ``test``: paths as they are there, if more are there by these."""
    samples = tuple(Sample(path.removeprefix("cars_"), label) for path, label in listing.samples)
    other = replace(listing, samples=samples)
    return other if len(_absent(other)) < len(_absent(listing)) else listing


def _not_found(
    known: Benchmark, root: Path, split: str, folders: list[Path], looked: list[Path], absent: list[str]
) -> UserError:
    """Why a split cannot be read: its images are not there, or none of the files looked for that would list them."""
    if absent or not looked:
        first = f" (first: {shortened(absent[-1])})" if absent else ""
        return UserError(
            f"{known.key}: no images of its {split} split{first} in {_shown(root, folders)}: "
            "put them into one of these folders, or name the dataset's folder with path"
        )
    if not known.split_file:
        return UserError(f"{known.key}: no list of its images at {_shown(root, looked)}: put it there")
    return UserError(
        f"{known.key}: no list of its images ({looked[0].name}) in {_shown(root, [each.parent for each in looked])}: "
        "put it into one of these folders, or name its folder with splits"
    )


def _shown(root: Path, paths: list[Path]) -> str:
    """Paths as text: those below the folder of all datasets by their place in it."""
    below = [str(path.relative_to(root)) for path in dict.fromkeys(paths) if path.is_relative_to(root)]
    other = [str(path) for path in dict.fromkeys(paths) if not path.is_relative_to(root)]
    inner = f"{{{', '.join(below)}}}" if len(below) > 1 else "".join(below)
    return ", ".join([*other, f"{root}/{inner}"] if below else other)
