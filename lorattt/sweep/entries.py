"""The parts of a sweep's file: entries that name configurations and keys, each checked before anything runs.

An entry says what is given to a run. It is one of

- ``path/to/file.yaml``, given with ``-c``;
- ``{model.lr: 0.005}``, keys as on the command line;
- a list of these;
- ``{config: FILE or a list of them, keys: {...}, ...}``, beside which a method or a dataset may say more.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorattt.errors import UserError, quoted
from lorattt.yaml_files import load_yaml

# What `lorattt test` and `fit` accept at the top of a configuration.
TOP_KEYS = (
    "trainer",
    "model",
    "data",
    "run",
    "seed_everything",
    "ckpt_path",
    "verbose",
    "weights_only",
    "return_predictions",
)
_GIVEN_BY_SWEEP = {
    "run.folder": "a run's folder follows from out",
    "run.root": "a run's folder follows from out",
    "seed_everything": "use seeds",
    "model.seed": "use seeds",
    "ckpt_path": "a fit goes on from its own checkpoint",
}
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Entry:
    """What is given to a run.

    Attributes:
        files: Configurations, in order.
        keys: Keys and their values, in order.
        fit: Of a method: what its prompt is fitted with, once for each seed (and source).
        grid: Of a method: keys, each with the values it takes in turn.
        seeds: Of a method: its seeds, where they are not those of the sweep.
        source: Of a dataset: the name of the source its prompt is fitted on.
    """

    files: tuple[str, ...] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    fit: "Entry | None" = None
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    source: str | None = None


class Configs:
    """The configurations that a sweep names, each read once.

    Attributes:
        read: Their contents by path.
    """

    def __init__(self) -> None:
        self.read: dict[str, dict[str, Any]] = {}

    def add(self, path: str, where: str) -> None:
        """Read and check one.

        Raises:
            UserError: If it is missing, no YAML, no mapping, or has a key that no run knows.
        """
        if path in self.read:
            return
        if not Path(path).is_file():
            raise UserError(f"{where}: no such file {path} (paths count from the current folder)")
        contents = load_yaml(Path(path))
        if not isinstance(contents, dict):
            raise UserError(f"{where}: {path} is no configuration: keys such as model and data are expected")
        for key in contents:
            if key not in TOP_KEYS:
                raise UserError(f"{where}: {path}: {key}: no such key{hint(key, TOP_KEYS)}")
        self.read[path] = contents

    def says(self, entries: Iterable[Entry], part: str) -> bool:
        """Whether one of the entries has a file or a key that names the class of ``model`` or ``data``."""
        return any(
            part in entry.keys or f"{part}.class_path" in entry.keys or any(part in self.read[f] for f in entry.files)
            for entry in entries
        )

    def value(self, entries: Iterable[Entry], key: str) -> Any:
        """What the entries say of a key, the last one that does; None where none does."""
        found = None
        entries = list(entries)
        for entry in entries:
            for file in entry.files:
                contents: Any = self.read[file]
                for part in key.split("."):
                    contents = contents.get(part) if isinstance(contents, dict) else None
                found = contents if contents is not None else found
        for entry in entries:
            found = entry.keys.get(key, found)
        return found


def entry_of(given: Any, where: str, more: tuple[str, ...], configs: Configs) -> Entry:
    """One entry, its files read and its keys checked.

    Args:
        given: As it stands in the sweep's file.
        where: Its place there, for messages.
        more: What a mapping may say beside ``config`` and ``keys``: some of fit, grid, seeds and source.
        configs: Where the files' contents are kept.

    Raises:
        UserError: If something of it is wrong.
    """
    if isinstance(given, Mapping) and not _are_keys(given):
        known = ("config", "keys", *more)
        for word in given:
            if word not in known:
                fix = "put it under keys" if "." in str(word) else f"use {', '.join(known)}"
                raise UserError(f"{where}.{word}: no such key{hint(word, known) or '; ' + fix}")
        plain = _plain([given.get("config"), keys_of(given.get("keys"), f"{where}.keys")], where, configs)
        fit, seeds, source = given.get("fit"), given.get("seeds"), given.get("source")
        return Entry(
            plain.files,
            plain.keys,
            None if fit is None else entry_of(fit, f"{where}.fit", (), configs),
            grid_of(given.get("grid"), f"{where}.grid"),
            None if seeds is None else seeds_of(seeds, f"{where}.seeds"),
            None if source is None else str(source),
        )
    return _plain([given], where, configs)


def _are_keys(given: Mapping[Any, Any]) -> bool:
    return bool(given) and all("." in str(key) or key in TOP_KEYS for key in given)


def _plain(given: Any, where: str, configs: Configs) -> Entry:
    """Files and keys from a list, which may hold lists."""
    files: list[str] = []
    keys: dict[str, Any] = {}
    for item in given:
        if isinstance(item, list):
            inner = _plain(item, where, configs)
            files += inner.files
            keys.update(inner.keys)
        elif isinstance(item, str):
            configs.add(item, where)
            files.append(item)
        elif isinstance(item, Mapping):
            keys.update(keys_of(item, where))
        elif item is not None:
            raise UserError(f"{where}: expected a file, keys or a list of these, got {quoted(item)}")
    return Entry(tuple(files), keys)


def keys_of(given: Any, where: str) -> dict[str, Any]:
    """Keys for the command line.

    Raises:
        UserError: If it is no mapping, or a key is unknown at its top, written otherwise or given by the sweep.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: expected keys such as {{model.lr: 0.005}}, got {quoted(given)}")
    for key, value in given.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise UserError(f"{where}: {quoted(key)} is no key: write it as model.views.number")
        top = key.split(".")[0]
        if top not in TOP_KEYS:
            raise UserError(f"{where}.{key}: no such key{hint(top, TOP_KEYS)}")
        if key in _GIVEN_BY_SWEEP:
            raise UserError(f"{where}.{key}: given by the sweep; {_GIVEN_BY_SWEEP[key]}")
        if key in ("trainer", "model", "data", "run") and isinstance(value, Mapping):
            raise UserError(
                f"{where}.{key}: write its keys with dots, such as {key}.{next(iter(value), 'name')}: VALUE"
            )
    return dict(given)


def grid_of(given: Any, where: str) -> dict[str, list[Any]]:
    """Keys with the values that each takes in turn.

    Raises:
        UserError: If a key is wrong, or has no list of at least one value, all different.
    """
    keys = keys_of(given, where)
    for key, values in keys.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}.{key}: expected a list of values, got {quoted(values)}")
        if any(value in values[:place] for place, value in enumerate(values)):
            raise UserError(f"{where}.{key}: a value is given twice")
    return keys


def seeds_of(given: Any, where: str) -> tuple[int, ...]:
    """Seeds.

    Raises:
        UserError: If they are not a list of different whole numbers of at least 0.
    """
    if not isinstance(given, list) or not given or any(type(seed) is not int or seed < 0 for seed in given):
        raise UserError(f"{where}: expected a list of whole numbers of at least 0, got {quoted(given)}")
    if len(set(given)) < len(given):
        raise UserError(f"{where}: a seed is given twice")
    return tuple(given)


def named(given: Any, where: str) -> dict[str, Any]:
    """A mapping from names, which become those of folders.

    Raises:
        UserError: If it is no mapping, is empty, or a name would be no good one of a folder.
    """
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"{where}: expected names with a file or keys each, got {quoted(given)}")
    for name in given:
        text = str(name)
        if isinstance(name, bool | float) or name is None or not _NAME.fullmatch(text):
            raise UserError(
                f"{where}: {quoted(text)} is no name: use letters, digits, dots, - and _ (in quotes, if YAML asks)"
            )
        if text == "fit" or text.startswith("seed-"):
            raise UserError(f"{where}.{text}: the sweep has a folder of that name; use another one")
    return {str(name): value for name, value in given.items()}


def hint(word: Any, known: Iterable[str]) -> str:
    """The nearest known word as the end of a message; nothing where none is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
