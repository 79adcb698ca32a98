"""Files that list the images of a split: CoOp's JSON, FGVC-Aircraft's text files, ZERO's tables of Stanford Cars."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorattt.data.listing import Item, first_gap, leaves_root
from lorattt.errors import UserError, quoted, shortened
from lorattt.inputs import read_text

_FETCH = "put it there, or fetch the dataset again"


@dataclass(frozen=True)
class SplitList:
    """The images of one split, as a file lists them.

    Attributes:
        file: That file.
        items: In the file's order; paths as the file has them.
        class_names: In label order, underscores read as spaces.
    """

    file: Path
    items: tuple[Item, ...]
    class_names: tuple[str, ...]


def read_coop(file: Path, split: str) -> SplitList:
    """One of CoOp's split files: an object of ``train``, ``val`` and ``test``, lists of ``[path, label, name]``.

    The classes are those of all its splits together: a split need not have every class.

    Raises:
        UserError: If the file is no such JSON, lacks the split, has a path that leads out of the dataset's
            folder, or if labels are not 0, 1, ... without gaps with one name each.
    """
    text = read_text(file, _FETCH)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"split file {file} is not valid JSON ({error}): fetch it again") from error
    if not isinstance(content, dict) or not isinstance(content.get(split), list) or not content[split]:
        raise UserError(f"split file {file} has no list {quoted(split)} of images: fetch it again")
    names: dict[int, str] = {}
    items: dict[str, list[Item]] = {}
    for part in (each for each in ("train", "val", "test") if each in content):
        entries = content[part]
        if not isinstance(entries, list):
            raise UserError(f"split file {file}: {quoted(part)} is no list of images: fetch it again")
        items[part] = [_coop_item(file, part, entry, names) for entry in entries]
    if (gap := first_gap(names)) is not None:
        raise UserError(
            f"split file {file} has labels up to {max(names)} but none is {gap}: labels must be 0, 1, ... without gaps"
        )
    return SplitList(file, tuple(items[split]), tuple(names[label] for label in range(len(names))))


def _coop_item(file: Path, part: str, entry: Any, names: dict[int, str]) -> Item:
    match entry:
        # bool is an int to Python, and no label.
        case [str(path), int(label), str(name)] if not isinstance(label, bool) and label >= 0 and name.strip():
            pass
        case _:
            shown = shortened(json.dumps(entry), 80)
            raise UserError(
                f"split file {file}: entry {shown} of {quoted(part)} is not [path, label, class name] with a label "
                "of 0 or more"
            )
    check_below_root(path, f"split file {file}")
    name = name.replace("_", " ")
    if names.setdefault(label, name) != name:
        raise UserError(
            f"split file {file}: class {label} is called {quoted(names[label])} and, at {shortened(path)}, "
            f"{quoted(name)}: a label must have one name"
        )
    return Item(path, label)


def check_below_root(path: str, where: str) -> None:
    """Raise :class:`UserError` for a path that :func:`lorattt.data.listing.leaves_root` finds outside."""
    if leaves_root(path):
        raise UserError(
            f"{where}: path {quoted(path)} leads out of the dataset's folder: only relative paths below it are read"
        )


def read_aircraft(folder: Path, split: str) -> SplitList:
    """FGVC-Aircraft's lists: ``variants.txt`` names the classes, ``images_variant_<split>.txt`` the images.

    A line of the latter is the image's number, a space, and the variant, which may have spaces itself.
    """
    variants = [line.strip() for line in read_text(folder / "variants.txt", _FETCH).splitlines() if line.strip()]
    label_of = {name: label for label, name in enumerate(variants)}
    if len(label_of) < len(variants):
        raise UserError(f"{folder / 'variants.txt'} has a variant twice: fetch it again")
    file = folder / f"images_variant_{split}.txt"
    items = []
    for line in read_text(file, _FETCH).splitlines():
        if not line.strip():
            continue
        number, _, name = line.strip().partition(" ")
        if name not in label_of:
            raise UserError(
                f"{file}: line {quoted(line.strip())} names no variant of variants.txt beside it: fetch both again"
            )
        check_below_root(number, str(file))
        items.append(Item(f"{number}.jpg", label_of[name]))
    if not items:
        raise UserError(f"{file} lists no images: fetch it again")
    # Underscores as everywhere, though these names have none.
    return SplitList(file, tuple(items), tuple(name.replace("_", " ") for name in variants))


def read_cars_tables(folder: Path, split: str) -> SplitList:
    """ZERO's tables of Stanford Cars, which stand in for CoOp's split file in its layout.

    ``split_coop.csv`` has columns ``filename`` and ``split``, ``labels.csv`` has ``filename`` and
    ``class_idx``, and ``metadata.csv`` has ``class_name``, a row per class in label order.
    """
    file, labels_file = folder / "split_coop.csv", folder / "labels.csv"
    names = [row["class_name"].strip() for row in _rows(folder / "metadata.csv", ("class_name",))]
    labels = {row["filename"]: row["class_idx"].strip() for row in _rows(labels_file, ("filename", "class_idx"))}
    items = []
    for row in _rows(file, ("filename", "split")):
        if row["split"] != split:
            continue
        path = row["filename"]
        check_below_root(path, str(file))
        label = labels.get(path, "")
        if not label.isdecimal() or int(label) >= len(names):
            raise UserError(
                f"{labels_file}: class_idx of {quoted(path)} is {shortened(label) or 'missing'}, where metadata.csv "
                f"has {len(names)} classes: fetch the tables again"
            )
        items.append(Item(path, int(label)))
    if not items:
        raise UserError(f"{file} lists no images of split {quoted(split)}: fetch it again")
    return SplitList(file, tuple(items), tuple(name.replace("_", " ") for name in names))


def _rows(file: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    reader = csv.DictReader(read_text(file, _FETCH).splitlines())
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{file} has no column {quoted(missing[0])}: fetch it again")
    # A short row has None where columns are missing.
    return [{column: row[column] or "" for column in columns} for row in reader]
