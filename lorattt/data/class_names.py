"""Class names from folders, lists and files, and which folder gets which name."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from unicodedata import normalize

from lorattt.data import note
from lorattt.data.imagenet_family import imagenet_names
from lorattt.data.name_lists import begins_with_numbers, check_names, check_no_numbers, keyed, of_pairs, read_name_file
from lorattt.errors import UserError, quoted, some
from lorattt.inputs import check_order, pairs

IMAGENET: Final = "imagenet"
_DIGITS: Final = re.compile("([0-9]+)")


def names_of(folders: list[str], given: Sequence[str] | str | None, key: str = "data.class_names") -> list[str]:
    """Class names in label order.

    If names are matched to folders by position, a warning lists the pairs, unless the names are the folders' own.

    Args:
        folders: The class folders, sorted; without any, there may be any number of names.
        given: None for the folders' names; the names; ``imagenet``, for folders named by wnid; or a file. Its lines,
            or the list in it, are names in the order of the folders, or each has its folder in front, as in
            "n01440764 tench" and "12: tench". A JSON object is folder to name.
        key: What messages call the argument.
    """
    if given is None:
        return [folder.replace("_", " ") for folder in folders]
    # File systems of macOS may store an accent as a separate character.
    folders = [normalize("NFC", folder) for folder in folders]
    if given == IMAGENET:
        return _looked_up(folders, imagenet_names(), "the ImageNet classes", "folders must be named by wnid")
    content: list[Any] | dict[str, Any]
    if isinstance(given, str):
        path, what = Path(os.path.expanduser(given)), f"{key} {given}"
        if not os.path.isfile(path):  # unlike Path.is_file, it takes a text of any length
            raise UserError(f"{key} {quoted(given)}: no such file (and the only built-in list is {IMAGENET!r})")
        content, lines = read_name_file(path, what)
    else:
        what, content, lines = key, list(given), False
    if isinstance(content, dict):
        mapping = of_pairs(content, folders)
        check_names(mapping.values(), what, list(mapping))
        known = set(folders).intersection(mapping)
        fix = "add it to the file" if known else f"its keys must be the folders' names, and are {some(mapping)}"
        return _looked_up(folders, mapping, what, fix)
    check_names(content, what)
    by_folder = keyed(content, folders, what, lines=lines)
    if by_folder is not None:
        found = _looked_up(folders, by_folder, what, "add it to the list")
        if shown := pairs(folders or list(by_folder), found):
            note(f"{what} has {'a folder' if folders else 'a wnid'} in front of each name: {shown}")
        return found
    if lines:
        check_no_numbers(content, what)
    elif number := begins_with_numbers(content):
        note(f"{what}: each name begins with a number, which goes into the texts, as in {quoted(number)}")
    if folders:
        _check_positions(content, folders, what)
    return content


def _check_positions(names: list[str], folders: list[str], what: str) -> None:
    """Check names in the order of the folders, and report the pairs."""
    if len(names) != len(folders):
        raise UserError(
            f"{what} has {len(names)} names but the dataset has {len(folders)} class folders: "
            "give one name per folder, in sorted order, or a JSON object from folder to name"
        )
    shown = pairs(folders, names)
    if not shown:
        return
    fix = "give a JSON object from folder to name, or lines of folder, tab, name"
    check_order(what, folders, names, fix)
    for one, other in pairwise(folders):
        if _counts_down(one, other):
            raise UserError(
                f"{what} is a list, and the folders are numbered: sorted as text, {quoted(one, 60)} comes before "
                f"{quoted(other, 60)}, so a list in the order of the numbers would mislabel them: {fix}"
            )
    note(f"{what} is a list, whose names go to the sorted folders one by one: {shown}")


def _counts_down(one: str, other: str) -> bool:
    """Whether two folders first differ in a number, which is larger in the first one."""
    for place, (left, right) in enumerate(zip(_DIGITS.split(one), _DIGITS.split(other), strict=False)):
        if left != right:
            left, right = left.lstrip("0"), right.lstrip("0")
            return place % 2 == 1 and (len(left), left) > (len(right), right)
    return False


def _looked_up(folders: list[str], names: dict[str, str], where: str, fix: str) -> list[str]:
    if missing := [folder for folder in folders if folder not in names]:
        count = f"{len(missing)} of {len(folders)} are not"
        raise UserError(f"class folder {quoted(missing[0])} is not in {where} ({count}): {fix}")
    return [names[folder] for folder in folders] or list(names.values())
