"""Files that list the images of a split: CoOp's JSON, FGVC-Aircraft's text files, ZERO's tables of Stanford Cars.

Readers return the images in the file's order, with the paths that it has, and the class names in label order, with
spaces for underscores.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lorattt.data.file_list import Sample, leaves_root, names_in_order
from lorattt.errors import UserError, quoted, shortened
from lorattt.inputs import read_text

Listed: TypeAlias = tuple[tuple[Sample, ...], tuple[str, ...]]
_FETCH = "put it there, or fetch the dataset again"


def read_coop(file: Path, split: str) -> Listed:
    """One of CoOp's split files: an object of ``train``, ``val`` and ``test``, lists of ``[path, label, name]``.

    The classes are those of all its splits together: a split need not have every class. Labels must be 0, 1, ...
    without gaps, with one name each.
    """
    text = read_text(file, _FETCH)
    what = f"split file {file}"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON ({error}): fetch it again") from error
    if not isinstance(content, dict) or not isinstance(content.get(split), list) or not content[split]:
        raise UserError(f"{what} has no list {quoted(split)} of images: fetch it again")
    names: dict[int, str] = {}
    samples: dict[str, list[Sample]] = {}
    for part in (each for each in ("train", "val", "test") if each in content):
        if not isinstance(content[part], list):
            raise UserError(f"{what}: {quoted(part)} is no list of images: fetch it again")
        samples[part] = [_coop_sample(what, part, entry, names) for entry in content[part]]
    return tuple(samples[split]), names_in_order(names, what)


def _coop_sample(what: str, part: str, entry: Any, names: dict[int, str]) -> Sample:
    """An entry as a sample; its class name is added to ``names``."""
    match entry:
        # bool is an int to Python, and no label.
        case [str(path), int(label), str(name)] if not isinstance(label, bool) and label >= 0 and name.strip():
            pass
        case _:
            raise UserError(
                f"{what}: entry {shortened(json.dumps(entry), 80)} of {quoted(part)} is not [path, label, class name] "
                "with a label of 0 or more"
            )
    _check_below_root(path, what)
    name = name.replace("_", " ")
    if names.setdefault(label, name) != name:
        both = f"{quoted(names[label])} and, at {shortened(path)}, {quoted(name)}"
        raise UserError(f"{what}: class {label} is called {both}: a label must have one name")
    return Sample(path, label)


def _check_below_root(path: str, where: str) -> None:
    if leaves_root(path):
        out = f"path {quoted(path)} leads out of the dataset's folder"
        raise UserError(f"{where}: {out}: only relative paths below it are read")


def read_aircraft(file: Path) -> Listed:
    """FGVC-Aircraft's ``images_variant_<split>.txt``; ``variants.txt`` beside it names the classes.

    A line is the image's number, a space, and the variant, which may have spaces itself.
    """
    names_file = file.with_name("variants.txt")
    variants = _lines(names_file)
    label_of = {name: label for label, name in enumerate(variants)}
    if len(label_of) < len(variants):
        raise UserError(f"{names_file} has a variant twice: fetch it again")
    samples = []
    for line in _lines(file):
        number, _, name = line.partition(" ")
        if name not in label_of:
            raise UserError(f"{file}: line {quoted(line)} names no variant of variants.txt beside it: fetch both again")
        _check_below_root(number, str(file))
        samples.append(Sample(f"{number}.jpg", label_of[name]))
    if not samples:
        raise UserError(f"{file} lists no images: fetch it again")
    return tuple(samples), tuple(name.replace("_", " ") for name in variants)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file, _FETCH).splitlines() if line.strip()]


def read_cars_tables(file: Path, split: str) -> Listed:
    """ZERO's ``split_coop.csv`` of Stanford Cars, which replaces CoOp's split file in its layout.

    It has columns ``filename`` and ``split``. Beside it, ``labels.csv`` has ``filename`` and ``class_idx``, and
    ``metadata.csv`` has ``class_name``, a row per class in label order.
    """
    labels_file = file.with_name("labels.csv")
    names = [name.strip() for (name,) in _rows(file.with_name("metadata.csv"), ["class_name"])]
    labels = dict(_rows(labels_file, ["filename", "class_idx"]))
    samples = []
    for path, part in _rows(file, ["filename", "split"]):
        if part != split:
            continue
        _check_below_root(path, str(file))
        label = labels.get(path, "").strip()
        if not label.isdecimal() or int(label) >= len(names):
            raise UserError(
                f"{labels_file}: class_idx of {quoted(path)} is {shortened(label) or 'missing'}, where metadata.csv "
                f"has {len(names)} classes: fetch the tables again"
            )
        samples.append(Sample(path, int(label)))
    if not samples:
        raise UserError(f"{file} lists no images of split {quoted(split)}: fetch it again")
    return tuple(samples), tuple(name.replace("_", " ") for name in names)


def _rows(file: Path, columns: Sequence[str]) -> list[list[str]]:
    """The values of some columns of a CSV file, row by row; empty where a row is too short."""
    reader = csv.DictReader(read_text(file, _FETCH).splitlines())
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise UserError(f"{file} has no column {quoted(missing[0])}: fetch it again")
    return [[row[column] or "" for column in columns] for row in reader]
