"""Parse lists of class names: lines, JSON or Python literals, perhaps with a number or a folder before each name."""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from unicodedata import normalize

from lorattt.errors import UserError, quoted
from lorattt.inputs import read_text

_WNID: Final = re.compile(r"n[0-9]{8}")
# Key, separator, name.
_KEYED: Final = (
    re.compile(r"(?P<key>[^\t,:;=]+?)(?P<mark>\s*[\t,:;=]\s*)(?P<name>\S.*)"),
    re.compile(r"(?P<key>\S+)(?P<mark>\s+)(?P<name>\S.*)"),
)
_NUMBERED: Final = re.compile(r"[(\[{]?(?P<number>[0-9]{1,9})(?P<mark>\s*[.):,;=\]\t-]\s*|\s+)(?P<name>\S.*)")


def read_name_file(path: Path, what: str) -> tuple[list[Any] | dict[str, Any], bool]:
    """Read a ``.json`` file, or a text file: lines, or a list or dict in the syntax of Python or JSON.

    The result is the names in order, or key to name; and whether they are lines of text, which may have a number or a
    folder before the name.
    """
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        raise UserError(f"{what}: YAML is not read here: write one name per line into a .txt file, or JSON")
    text = normalize("NFC", read_text(path, "allow reading it, and save it as UTF-8", what=what))
    content: Any
    lines = False
    if suffix == ".json":
        try:
            content = json.loads(text, object_pairs_hook=lambda found: _once(found, what))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{what} is not valid JSON: {error}") from error
    elif (content := _literal(text)) is None:
        lines = True
        content = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(content, list | tuple | dict) or not content:
        raise UserError(f"{what} holds no names: one per line, or a JSON list or object")
    if isinstance(content, dict):
        return {str(key): value for key, value in content.items()}, False
    return list(content), lines


def _once(found: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    """Reject a JSON object with equal keys, of which Python would keep the last."""
    if twice := _twice(key for key, _ in found):
        raise UserError(f"{what}: key {quoted(twice[0])} comes twice: remove one")
    return dict(found)


def _twice(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _literal(text: str) -> Any:
    """A list or dict in the syntax of Python or JSON, with or without its brackets; None for other text."""
    body = text.strip()
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    commas = all(line.endswith(",") for line in lines[:-1])
    quotes = bool(lines) and all(line[0] in "'\"" for line in lines)
    forms = [body] if body[:1] in ("[", "(", "{") else []
    forms += [f"[{body}]"] if quotes and commas else []
    forms += [f"{{{body}}}"] if commas and re.match(r"\w+\s*:\s*['\"]|['\"].*['\"]\s*:", body) else []
    for form in forms:
        try:
            found = ast.literal_eval(form)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple | dict):
            return found
    return None


def of_pairs(mapping: dict[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """Convert Keras' ``imagenet_class_index.json``, number to [wnid, name]; other mappings are returned unchanged.

    The result is number to name if all folders are such numbers, else wnid to name.
    """
    pairs = [value for value in mapping.values() if isinstance(value, list | tuple) and len(value) == 2]
    if len(pairs) < len(mapping) or not all(isinstance(wnid, str) and _WNID.fullmatch(wnid) for wnid, _ in pairs):
        return mapping
    keys = mapping if folders and set(folders) <= set(mapping) else [wnid for wnid, _ in pairs]
    names = [name.replace("_", " ") if isinstance(name, str) else name for _, name in pairs]
    return dict(zip(keys, names, strict=True))


def keyed(names: Sequence[str], folders: Sequence[str], what: str, *, lines: bool) -> dict[str, str] | None:
    """Split entries of the form "folder name" into folder and name; None if they have another form.

    Numbers before a folder and after a wnid, as in ILSVRC's ``map_clsloc.txt``, are dropped; underscores in a name
    become spaces. Without folders, ImageNet's wnids count as folders. ``lines`` are of a text file, not of a list.
    """
    numbered = [match["name"] for match in _numbered(names)]
    for entries in (names, numbered) if len(numbered) == len(names) else (names,):
        for form in _KEYED:
            found = [match for match in map(form.fullmatch, entries) if match]
            keys = [match["key"] for match in found]
            if not found or not _name_folders(keys, folders):
                continue
            if not all(_ends_folder(match["mark"], folders) for match in found):
                if not set(folders) <= set(keys):
                    continue
                if not lines:
                    return None
                raise UserError(
                    f"{what}: each line begins with the name of a folder, as {quoted(entries[0])} does: put a tab "
                    "between the folder and the name, or give whole names as a JSON list"
                )
            if bad := next((entry for entry in entries if not form.fullmatch(entry)), None):
                raise UserError(f"{what}: {quoted(bad)} does not begin with a folder, as other lines do: give its name")
            if twice := _twice(keys):
                raise UserError(f"{what}: {quoted(twice[0])} comes twice: keep one line for each folder")
            rest = [match["name"] for match in found]
            rest = _without_numbers(rest) if all(map(_WNID.fullmatch, keys)) else rest
            return {key: _unquoted(name).replace("_", " ") for key, name in zip(keys, rest, strict=True)}
    return None


def _numbered(entries: Iterable[str]) -> list[re.Match[str]]:
    """Those entries that begin with a number and a separator."""
    return [match for match in map(_NUMBERED.fullmatch, entries) if match]


def _name_folders(keys: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether the keys have most of the folders; without folders, whether all keys are wnids."""
    if not folders:
        return all(map(_WNID.fullmatch, keys))
    return 2 * len(set(folders).intersection(keys)) > len(folders)


def _ends_folder(mark: str, folders: Sequence[str]) -> bool:
    """Whether the separator ends a folder's name, unlike the space in "black swan" or "2 euro"."""
    if "," in mark:
        return all(re.search("[0-9]", folder) for folder in folders)
    return bool(mark.strip(" ")) or all(re.search("[0-9]", each) and not each.isdecimal() for each in folders)


def check_no_numbers(names: Sequence[str], what: str) -> None:
    """Reject lines that begin with a running number, a wnid or a bullet, which would end up in the prompts."""
    if number := begins_with_numbers(names):
        raise UserError(
            f"{what}: each line begins with a number, as {quoted(number)} does: leave the numbers out, put the "
            "class folder's name there, or give a JSON list if they are part of the names"
        )
    if names and all(re.match(r"[\"'(\[{]*n[0-9]{8}\b", name) for name in names):
        raise UserError(
            f"{what}: each line begins with a wnid of ImageNet, as {quoted(names[0])} does, but these are not the "
            "names of the class folders: leave them out, or put the class folder's name there"
        )
    if len(names) > 1 and (mark := names[0][0]) in "-*+'\"" and all(name[0] == mark for name in names):
        raise UserError(f"{what}: each line begins with {mark}, as {quoted(names[0])} does: write the names alone")


def begins_with_numbers(names: Sequence[str]) -> str:
    """The first name if all names begin with a number that is not part of the name; else empty.

    Such numbers count up from 0 or 1, or are all different and followed by a separator, as in "3: tench". The first
    entry may be the head of a table.
    """
    for entries in (names, names[1:]) if len(names) > 2 else (names,):
        found = _numbered(entries)
        if not found or len(found) < len(entries):
            continue
        numbers = [int(match["number"]) for match in found]
        counted = len(numbers) > 1 and numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
        marked = all(match["mark"].strip(" ") in (":", "\t", ")", "]", "=", ",", ";") for match in found)
        if counted or (marked and len(set(numbers)) == len(numbers)):
            return entries[0]
    return ""


def _without_numbers(names: list[str]) -> list[str]:
    """Drop ILSVRC's numbers before the names, if all names have one and all numbers differ."""
    found = [match for match in _numbered(names) if not match["mark"].strip()]
    numbers = {int(match["number"]) for match in found}
    return [match["name"] for match in found] if len(numbers) == len(names) else names


def _unquoted(name: str) -> str:
    name = name.strip().removesuffix(",").strip()
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] and name[0] in "'\"" else name


def check_names(values: Iterable[Any], what: str, keys: Sequence[str] = ()) -> None:
    """Reject a blank name, or a value that is not a string; messages quote the keys of a mapping."""
    for number, value in enumerate(values):
        if isinstance(value, str) and value.strip():
            continue
        problem = "blank" if isinstance(value, str) else f"{quoted(value)}, not a text"
        fix = "give every class a name"
        if isinstance(value, list | tuple | dict) and value:
            problem = f"a list of {len(value)}, not a text"
            texts = "its texts are made of the name by templates (model.templates)"
            fix = f"a class has one name here, and {texts}: give one name"
        elif isinstance(value, int) and not isinstance(value, bool) and keys:
            fix = "turn the file round, from folder to name"
        of_key = f" (of {quoted(keys[number], 60)})" if keys else ""
        raise UserError(f"{what}: name {number + 1}{of_key} is {problem}: {fix}")
