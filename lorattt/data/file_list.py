"""Labelled images as a list of relative paths: readers of all layouts return it, and splits take parts of it.

As a file it is a table of path, label and class name, with tabs between. A run writes the list of the images that it
drew, and ``data.items`` of another run reads it. It may be edited by hand.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

from lorattt.data.images import MAX_PIXELS, check_max_pixels, read_image
from lorattt.errors import UserError, quoted
from lorattt.inputs import read_text

UNKNOWN_LABEL: Final = -1
_COLUMNS: Final = ["path", "label", "class_name"]
# The format of earlier versions: two more lines of comments follow, and nothing is quoted.
_OLD_FIRST_LINE: Final = "# lorattt items 1"


class Sample(NamedTuple):
    """One image."""

    path: str  # relative to the list's root
    label: int  # 0-based class number, or -1 where unknown


@dataclass(frozen=True)
class FileList:
    """Images below one folder, and the names of their classes."""

    root: Path
    samples: tuple[Sample, ...]  # in a fixed order that does not depend on the file system
    class_names: tuple[str, ...]  # in label order; a name may occur twice, so it is never a key


def names_in_order(names: Mapping[int, str], where: str) -> tuple[str, ...]:
    """Class names by label; rejects labels that are not 0, 1, ..."""
    if (gap := next((label for label in range(len(names)) if label not in names), None)) is not None:
        raise UserError(f"{where}: labels go up to {max(names)} but none is {gap}: they must be 0, 1, ... without gaps")
    return tuple(names[label] for label in range(len(names)))


def leaves_root(path: str) -> bool:
    """Whether a listed path is no file below the root: empty, absolute on any system, or with a ``..`` in it."""
    # Read as Windows would, too, where a backslash or a drive leads elsewhere: the list may travel there. By hand,
    # since pathlib takes seconds for the lists of ImageNet.
    parts = path.replace("\\", "/").split("/")
    return parts[0] == "" or path[1:2] == ":" or ".." in parts or not set(parts) - {"", "."}


class ListedImages:
    """Listed images as a source, numbered by their place in the list.

    Results call the dataset ``name``; ``max_pixels`` is the largest width times height that is read. Subclasses
    override :meth:`read` where images are not files of their own.
    """

    def __init__(self, name: str, listing: FileList, max_pixels: int = MAX_PIXELS) -> None:
        check_max_pixels(max_pixels)
        self.name, self.listing, self._max_pixels = name, listing, max_pixels
        self.class_names = list(listing.class_names)

    def __len__(self) -> int:
        return len(self.listing.samples)

    def path(self, index: int) -> str:
        """Path relative to the list's root."""
        return self.listing.samples[index].path

    def label(self, index: int) -> int:
        """The image's class number."""
        return self.listing.samples[index].label

    def read(self, index: int) -> Image.Image:
        """The image, RGB, upright."""
        return read_image(self.listing.root / self.listing.samples[index].path, self._max_pixels)


def write_image_list(listing: FileList, file: Path) -> None:
    """Write a list of images, one a line; a class without images has a line with an empty path."""
    seen = {sample.label for sample in listing.samples}
    empty = [Sample("", label) for label in range(len(listing.class_names)) if label not in seen]
    table = io.StringIO(newline="")
    writer = csv.writer(table, "excel-tab", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for path, label in (*empty, *listing.samples):
        if path and leaves_root(path):
            raise UserError(f"{file}: cannot list {quoted(path)}: it is not a path below {listing.root}")
        writer.writerow([path, label, "" if label == UNKNOWN_LABEL else listing.class_names[label]])
    try:
        content = table.getvalue().encode("utf-8")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except UnicodeEncodeError as error:
        raise UserError(f"{file}: a path or class name is no text in UTF-8 ({error.reason}): rename it") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from error


def read_image_list(file: Path, root: Path) -> FileList:
    """Read a list that :func:`write_image_list`, an earlier version or a user wrote; images may be missing."""
    text = read_text(file, "give the list of images of a run")
    old = text.startswith(_OLD_FIRST_LINE)
    lines = io.StringIO(text, newline="")
    rows = csv.reader(lines, "excel-tab", strict=True, quoting=csv.QUOTE_NONE if old else csv.QUOTE_MINIMAL)
    samples: list[Sample] = []
    names: dict[int, str] = {}
    try:
        head = [next(rows, []) for _ in range(3 if old else 1)]
        if not old and head != [_COLUMNS]:
            raise UserError(f"{file} line 1: not a list of images, whose columns are {', '.join(_COLUMNS)}")
        for row in filter(None, rows):
            where = f"{file} line {rows.line_num}"
            path, label, name = _parsed(where, row)
            if label != UNKNOWN_LABEL and names.setdefault(label, name) != name:
                raise UserError(f"{where}: class {label} is {quoted(name)} here and {quoted(names[label])} above")
            if path:
                samples.append(Sample(path, label))
    except csv.Error as error:
        raise UserError(f"{file} line {rows.line_num}: {error}: correct it, or give the list of a run") from error
    return FileList(root, tuple(samples), names_in_order(names, str(file)))


def _parsed(where: str, row: list[str]) -> tuple[str, int, str]:
    if len(row) != len(_COLUMNS):
        raise UserError(f"{where}: has {len(row)} fields, not 3 ({', '.join(_COLUMNS)}, with tabs between)")
    path, label, name = row
    if path and leaves_root(path):
        raise UserError(f"{where}: {quoted(path)} is not a path below the root")
    if not (label.isascii() and label.isdigit()) and label != str(UNKNOWN_LABEL):
        raise UserError(f"{where}: label {quoted(label)} is not a number from 0 on, nor {UNKNOWN_LABEL} for no class")
    return path, int(label), name
