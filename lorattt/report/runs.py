"""Run folders read back: results, configuration and predictions of finished runs.

Needs no torch; the callbacks write these files. A run's folder holds its configuration, and for each method a folder
with ``results.json`` and predictions. In format 1, a run of one method had them beside the configuration.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from lorattt.calibration import ECE_BINS
from lorattt.errors import UserError, one_line, quoted, shortened
from lorattt.inputs import read_text
from lorattt.report.predictions import RESTORE, Predictions, TopK, read_predictions, read_top_k

RESULTS_FILE: Final = "results.json"
CONFIG_FILE: Final = "config.yaml"
PREDICTIONS_FILE: Final = "predictions.csv"
RANKED_FILE: Final = "predictions.jsonl"
SHARED_ARGUMENTS: Final[tuple[str, ...]] = ("clip", "class_names", "templates", "prompt", "views")
"""Arguments that several methods of one run share."""
_REMOVE: Final = "restore the file, or remove it"
# Files of each device while the run is not finished.
_PARTS: Final = ("*.rank*.csv", "*.rank*.jsonl")
FORMAT: Final = 2  # the newest ``format`` of ``results.json`` that is understood; files without the key are of format 1
_NUMBER: Final = (int, float)
_KINDS: Final = {str: "a text", int: "a whole number", float: "a number", dict: "an object"}
_STATED: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("method", "dataset", "backbone"), (str,)),
    **dict.fromkeys(("n", "peak_memory_bytes", "seed", "fallbacks", "skipped"), (int,)),
    "images_per_second": _NUMBER,
}
_CORRUPTION: Final[dict[str, tuple[type, ...]]] = {"name": (str,), "severity": (int,), "of": (str,)}


@dataclass(frozen=True)
class Corruption:
    """How the images of a run were corrupted: by what, how strongly, and the name of the clean dataset."""

    name: str
    severity: int
    of: str


@dataclass(frozen=True)
class Run:
    """One method on one dataset with one seed, finished."""

    folder: Path  # of the method's files
    name: str | None  # the user's name for it, in place of the method's
    method: str
    dataset: str
    backbone: str
    corruption: Corruption | None
    n: int  # number of images with a prediction
    images_per_second: float  # over all devices; of all methods together if shared_with names others
    peak_memory_bytes: int  # the largest of any device; 0 where it is not known
    seed: int
    fallbacks: int  # images that kept their zero-shot prediction, as adaptation was not finite
    skipped: int  # images that could not be read
    shared_with: tuple[str, ...]
    measures: dict[str, float]  # the fractions and likelihoods, such as top1_after; empty without labels
    results: dict[str, Any] = field(repr=False)  # all that results.json holds

    @property
    def labelled(self) -> bool:
        """Whether there is an accuracy."""
        return "top1_after" in self.measures

    @property
    def ece_bins(self) -> int:
        """Of the calibration error in ``results.json``; older versions did not store it and used the default."""
        return int(self.results.get("ece_bins", ECE_BINS))

    @property
    def home(self) -> Path:
        """The run's folder, which has the configuration."""
        # In format 1, only methods of a list had a folder of their own, and the key.
        return self.folder.parent if "shared_with" in self.results else self.folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration that made the run; empty where the file is gone. A ``UserError`` if it is damaged."""
        file = self.home / CONFIG_FILE
        if not file.exists():
            return {}
        import yaml

        try:
            found = yaml.safe_load(read_text(file, _REMOVE))
        except yaml.YAMLError as error:
            raise UserError(f"{file}: damaged YAML ({shortened(one_line(error), 200)}): {_REMOVE}") from error
        if not isinstance(found, dict):
            raise UserError(f"{file}: holds no configuration: {_REMOVE}")
        return found

    def configured(self, *keys: str) -> dict[str, Any]:
        """The mapping below these keys of the configuration; empty where there is none."""
        found: Any = self.config
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def method_arguments(self) -> dict[str, Any]:
        """The method's own arguments, of a method of a list with those that all of them share."""
        stated = self.configured("model", "init_args")
        if "methods" not in stated:
            return dict(stated)
        shared = {key: stated[key] for key in SHARED_ARGUMENTS if key in stated}
        return {**shared, **self.configured("model", "init_args", "options", self.method)}

    @cached_property
    def predictions(self) -> Predictions:
        """The method's predictions; a ``UserError`` if the file is missing, damaged, or not of ``n`` images."""
        file = self.folder / PREDICTIONS_FILE
        if not file.exists():
            raise UserError(f"{file}: is missing: copy the whole folder of the run, or run it again")
        found = read_predictions(file)
        if len(found.index) != self.n:
            raise UserError(
                f"{file}: has {len(found.index)} images, {RESULTS_FILE} says {self.n}: one of them is not of this run"
            )
        return found

    @cached_property
    def top_k(self) -> TopK:
        """The most probable classes of each image; without ``predictions.jsonl`` the predicted ones."""
        return read_top_k(self.predictions, self.folder / RANKED_FILE)


def find_runs(given: Sequence[str], notes: list[str] | None = None) -> list[Run]:
    """The finished runs of some folders, each once.

    Args:
        given: Folders of runs, or folders that hold such at any depth; as ``NAME=FOLDER`` the rows of these runs are
            called ``NAME`` (of several methods: ``NAME method``).
        notes: Where given, a line is added for each run that is not finished, which is left out.

    Raises:
        UserError: If there is no finished run, or a ``results.json`` is damaged or of a newer lorattt.
    """
    found: dict[Path, Run] = {}
    unfinished: dict[str, None] = {}
    for text in given:
        name, folder = named_folder(text)
        results, lines = _results_below(folder)
        unfinished |= dict.fromkeys(lines)
        if not (results or lines):
            raise UserError(f"{folder}: no {RESULTS_FILE} here or below: name the folder of a finished test run")
        several = len({row["method"] for row in results.values()}) > 1
        for file, row in results.items():
            label = f"{name} {row['method']}" if name and several else name
            found.setdefault(file.parent.resolve(), _run(file.parent, label, row))
    if not found:
        more = f" (and {len(unfinished) - 1} more)" if len(unfinished) > 1 else ""
        raise UserError(f"there is no finished run to report: {next(iter(unfinished))}{more}")
    if notes is not None:
        notes += unfinished
    return list(found.values())


def named_folder(text: str) -> tuple[str | None, Path]:
    """The name, if any, and the folder of ``NAME=FOLDER`` or ``FOLDER``."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    if not name.strip() or not folder:
        raise UserError(f"{text}: write it as NAME=FOLDER")
    return name.strip(), Path(folder).expanduser()


def _results_below(folder: Path) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """The ``results.json`` of finished runs with what they hold, and a line for each run that is not finished."""
    if folder.name == RESULTS_FILE and folder.is_file():
        folder = folder.parent
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder: name the folder of a run, or one that holds runs")
    files: list[Path] = []
    begun: dict[Path, int] = {}
    for above, _, names in os.walk(folder):
        files += [Path(above, name) for name in names if name == RESULTS_FILE]
        if parts := [Path(above, name) for name in names if any(fnmatch(name, each) for each in _PARTS)]:
            begun[Path(above)] = sum(map(_size, parts))
    found = {file: _read_results(file) for file in sorted(files)}
    lines = []
    for home, size in sorted(begun.items()):
        if home / RESULTS_FILE in found or _all_there(home, found):  # the former: format 1
            continue
        if size:
            found = {file: row for file, row in found.items() if file.parent.parent != home}
            lines.append(
                f"{home}: left out, as the run is not finished: it was interrupted, or is still running. To finish "
                f"it, give its command again with --run.folder {home}."
            )
        else:
            lines.append(f"{home}: left out, as the run ended before its first image.")
    return found, lines


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the run that wrote it has just ended
        return 0


def _all_there(home: Path, found: dict[Path, dict[str, Any]]) -> bool:
    """Whether a folder holds the results of all methods of one run."""
    rows = {file.parent.name: row for file, row in found.items() if file.parent.parent == home}
    below = {name: row["shared_with"] for name, row in rows.items() if "shared_with" in row}
    return bool(below) and all(str(other) in below for others in below.values() for other in others)


def _run(folder: Path, name: str | None, row: dict[str, Any]) -> Run:
    stated = row.get("corruption")
    return Run(
        folder=folder,
        name=name,
        corruption=None if stated is None else Corruption(stated["name"], stated["severity"], stated["of"]),
        shared_with=tuple(row.get("shared_with", ())),
        measures={key: math.nan if value is None else float(value) for key, value in row.items() if _is_measure(key)},
        results=row,
        **{key: row[key] for key in _STATED},
    )


def _is_measure(key: str) -> bool:
    """Whether its value is a fraction or likelihood, null for answers that are not finite."""
    return key.endswith(("_before", "_after"))


def _read_results(file: Path) -> dict[str, Any]:
    """What ``results.json`` holds, checked."""
    try:
        row = json.loads(read_text(file, RESTORE))
    except ValueError as error:
        raise UserError(f"{file}: damaged JSON ({shortened(one_line(error), 200)}): {RESTORE}") from error
    if not isinstance(row, dict):
        raise UserError(f"{file}: not a results.json of lorattt: it holds no object")
    written = row.get("format", 1)
    if not isinstance(written, int) or written > FORMAT:
        versions = row.get("versions")
        version = versions.get("lorattt", "unknown") if isinstance(versions, dict) else "?"
        raise UserError(
            f"{file}: format {shortened(str(written), 60)} of lorattt {shortened(str(version), 60)}, this one reads "
            f"up to {FORMAT}: install that lorattt"
        )
    measured = [key for key, value in row.items() if _is_measure(key) and value is not None]
    _check(file, row, {**_STATED, **dict.fromkeys(measured, _NUMBER)})
    if row.get("corruption") is not None:
        _check(file, row, {"corruption": (dict,)})
        _check(file, row["corruption"], _CORRUPTION, "corruption.")
    bins = row.get("ece_bins", 1)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise UserError(f"{file}: ece_bins is {quoted(bins, 60)}, not a number of bins: run again")
    return row


def _check(file: Path, row: Mapping[str, Any], stated: Mapping[str, tuple[type, ...]], above: str = "") -> None:
    missing = [above + key for key in stated if key not in row]
    if missing:
        raise UserError(f"{file}: has no {', '.join(missing)}: written by another version of lorattt, or edited")
    for key, kinds in stated.items():
        if isinstance(row[key], bool) or not isinstance(row[key], kinds):
            raise UserError(f"{file}: {above}{key} is {quoted(row[key], 60)}, not {_KINDS[kinds[-1]]}: run again")
