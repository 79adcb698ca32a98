"""Unlabelled images from paths, globs, folders or lists."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from lorattt.data import note
from lorattt.data.class_names import IMAGENET, names_of
from lorattt.data.datamodule import EpisodeData
from lorattt.data.file_list import UNKNOWN_LABEL, FileList, ListedImages, Sample
from lorattt.data.images import MAX_PIXELS
from lorattt.data.walk import images_below, of_the_same_format
from lorattt.errors import UserError, quoted
from lorattt.inputs import read_text


def unlabelled_images(
    images: Sequence[str] | str, class_names: Sequence[str] | str, max_pixels: int = MAX_PIXELS
) -> ListedImages:
    """Image files without labels, see :func:`find_images`, and the classes that they may get."""
    names = unlabelled_class_names(class_names)
    items = tuple(Sample(path, UNKNOWN_LABEL) for path in find_images(images))
    return ListedImages("images", FileList(Path(), items, tuple(names)), max_pixels)


def find_images(images: Sequence[str] | str, key: str = "data.images") -> list[str]:
    """Expand paths, globs, folders and lists into files, in the order given, each file once.

    Args:
        images: One or several of: a file, whatever its ending; a folder, searched below for image files,
            hidden ones left out; a pattern with ``*``, ``?``, ``[...]`` or ``**`` (any folders), sorted;
            ``@FILE``, a text file with one file or folder per line. A leading ``~`` is the home folder.
        key: What messages call the argument.
    """
    entries = [images] if isinstance(images, str) else list(images)
    if not entries:
        raise UserError(f"{key} is empty: give files, folders, patterns such as 'photos/*.jpg', or @list.txt")
    found: dict[str, str] = {}
    for entry in entries:
        for path in _expand(os.path.expanduser(entry), key):
            # A link and its target are one file; broken links are distinguished by their own names.
            same = os.path.realpath(path) if os.path.exists(path) else os.path.abspath(path)
            found.setdefault(same, path)
    return list(found.values())


def _expand(entry: str, key: str) -> Iterator[str]:
    if os.path.lexists(entry):  # first, so that a file may have brackets in its name
        yield from _file_or_folder(entry, key)
    elif entry.startswith("@"):
        yield from _listed(entry[1:], key)
    elif glob.has_magic(entry):
        matches = sorted(path for path in glob.iglob(entry, recursive=True) if not os.path.isdir(path))
        others = _other_endings(entry, matches)
        if not matches:
            raise UserError(
                f"{key} {quoted(entry)} matches no file: check the pattern, seen from {os.getcwd()}"
                + (f" (there are {others}: an ending is matched to the letter)" if others else "")
            )
        if others:
            note(f"{key} {quoted(entry)} leaves out {others}, which are of the same format: name the folder, or these")
        yield from matches
    else:
        raise UserError(f"{key} {quoted(entry)}: no such file or folder, seen from {os.getcwd()}")


def _other_endings(pattern: str, matches: Sequence[str]) -> str:
    """Count files that a pattern misses only for the spelling of their ending: "2 .JPG, 1 .jpeg"."""
    stem, ending = os.path.splitext(pattern)
    endings = of_the_same_format(ending)  # none, if there is a wildcard in it
    missed = set(glob.iglob(f"{stem}.*", recursive=True)).difference(matches) if endings else ()
    count = Counter(other for path in missed if (other := os.path.splitext(path)[1]).lower() in endings)
    return ", ".join(f"{number} {other}" for other, number in sorted(count.items()))


def _file_or_folder(path: str, key: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    what = f"{key} {quoted(path)}"
    below = images_below(Path(path), what)
    below.note_left_out(what)
    return [os.path.join(path, inner) for inner in below.images]


def _listed(name: str, key: str) -> Iterator[str]:
    what = f"{key} '@{name}'"
    lines = read_text(Path(name).expanduser(), "name a text file of paths", what=what).splitlines()
    listed = {number: os.path.expanduser(line.strip()) for number, line in enumerate(lines, 1) if line.strip()}
    if not listed:
        raise UserError(f"{what} holds no paths: give one per line")
    for number, path in listed.items():
        if not os.path.lexists(path):
            raise UserError(f"{what}, line {number}: no such file or folder {quoted(path)}, seen from {os.getcwd()}")
        yield from _file_or_folder(path, key)


def unlabelled_class_names(
    names: Sequence[str] | str, key: str = "data.class_names", example: str = "'[cat, dog]'"
) -> list[str]:
    """The names an image may get, in label order, from a list, a ``.txt`` or ``.json`` file, or ``imagenet``.

    Messages call the argument ``key``; ``example`` is how a list is written where it is given.
    """
    if names == IMAGENET:
        return names_of([], IMAGENET)  # two of these names come twice, and are two classes
    if isinstance(names, str) and not os.path.isfile(os.path.expanduser(names)):
        raise UserError(
            f"{key} {quoted(names)}: no such file; give a list such as {example}, a .txt or .json file, or {IMAGENET}"
        )
    found = [name.strip() for name in names_of([], names, key)]
    where = f"{key} {names}" if isinstance(names, str) else key
    if not found:
        raise UserError(f"{where} is empty: give at least one name")
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise UserError(f"{where} has {quoted(twice[0])} more than once: remove it, or tell the classes apart by name")
    return found


class ImagesData(EpisodeData):
    """A user's own images, without labels, for ``predict``.

    Args:
        images: Files, folders (searched below), patterns such as ``photos/**/*.jpg``, and ``@list.txt`` for a
            text file with one path per line; one of these or a list.
        class_names: Names of the classes: a list such as ``[cat, dog]``, a ``.txt`` or ``.json`` file, or
            ``imagenet``.
        on_bad_image: ``error`` ends the run at an unreadable image; ``skip`` leaves it out, counts it and reports it.
        max_pixels: The largest width times height that is read; above it, an image counts as unreadable.
        kwargs: The other arguments of :class:`ImageData` except ``prefetch``.
    """

    def __init__(
        self,
        images: list[str] | str,
        class_names: list[str] | str,
        *,
        on_bad_image: Literal["error", "skip"] = "skip",
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        source = unlabelled_images(images, class_names, max_pixels)
        super().__init__(source, on_bad_image=on_bad_image, prefetch=2, **kwargs)
