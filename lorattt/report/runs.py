"""Run folders read back: what a run is, where it lies, and what it said of each image.

Nothing here knows of torch; the files are those that the callbacks write. A folder holds ``results.json`` and the
predictions of one method; a run of several methods has a folder for each of them, and its configuration above these.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from lorattt.errors import UserError, quoted
from lorattt.report.predictions import Predictions, complete_probabilities, label_probabilities, read_predictions

FORMAT: Final = 1
"""The newest ``format`` of ``results.json`` that is understood; files without the key are of format 1."""
RESULTS_FILE: Final = "results.json"
CONFIG_FILE: Final = "config.yaml"
PREDICTIONS_FILE: Final = "predictions.csv"
RANKED_FILE: Final = "predictions.jsonl"

_STATED: Final[dict[str, tuple[type, ...]]] = {
    "method": (str,),
    "dataset": (str,),
    "backbone": (str,),
    "n": (int,),
    "images_per_second": (int, float),
    "peak_memory_bytes": (int,),
    "seed": (int,),
    "fallbacks": (int,),
    "skipped": (int,),
}
_CORRUPTION: Final[dict[str, tuple[type, ...]]] = {"name": (str,), "severity": (int,), "of": (str,)}
# What a run holds while it is written: a file, or several, of each device.
_PARTS: Final = ("*.rank*.csv", "*.rank*.jsonl")


@dataclass(frozen=True)
class Corruption:
    """How the images of a run were corrupted.

    Attributes:
        name: The corruption.
        severity: Its strength.
        of: Name of the clean dataset.
    """

    name: str
    severity: int
    of: str


@dataclass(frozen=True)
class Run:
    """One method on one dataset with one seed, finished.

    Attributes:
        folder: Where its files lie.
        name: What the user calls it, in place of the method's name; None if nothing was said.
        method: The method's name.
        dataset: The dataset's name.
        backbone: The model's name.
        corruption: How the images were corrupted; None for clean ones.
        n: Number of images with a prediction.
        images_per_second: Over all devices; of all methods together if ``shared_with`` names others.
        peak_memory_bytes: The largest of any device; 0 where it is not known.
        seed: The run's seed.
        fallbacks: Images that kept their zero-shot prediction, as adaptation was not finite.
        skipped: Images that could not be read.
        shared_with: The other methods of the same run.
        measures: The fractions and likelihoods in ``results.json``, such as ``top1_after``; empty without labels.
        results: All that ``results.json`` holds.
    """

    folder: Path
    name: str | None
    method: str
    dataset: str
    backbone: str
    corruption: Corruption | None
    n: int
    images_per_second: float
    peak_memory_bytes: int
    seed: int
    fallbacks: int
    skipped: int
    shared_with: tuple[str, ...]
    measures: dict[str, float]
    results: dict[str, Any] = field(repr=False)

    @property
    def labelled(self) -> bool:
        """Whether there is an accuracy."""
        return "top1_after" in self.measures

    @property
    def is_member(self) -> bool:
        """Whether it is of a run of several methods (perhaps of one alone), which has one configuration for all."""
        return "shared_with" in self.results

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration that made the run; empty where the file is gone.

        Raises:
            UserError: If it is damaged.
        """
        home = self.folder.parent if self.is_member else self.folder
        file = home / CONFIG_FILE
        if not file.exists():
            return {}
        import yaml

        try:
            found = yaml.safe_load(_text(file))
        except yaml.YAMLError as error:
            raise UserError(f"{file}: damaged YAML ({_one_line(error)}): restore the file, or remove it") from error
        if not isinstance(found, dict):
            raise UserError(f"{file}: holds no configuration: restore the file, or remove it")
        return found

    @cached_property
    def predictions(self) -> Predictions:
        """What the method said of each image, by rising index.

        Raises:
            UserError: If ``predictions.csv`` is missing, damaged, or of another number of images than ``n``.
        """
        file = self.folder / PREDICTIONS_FILE
        if not file.exists():
            raise UserError(f"{file}: is missing: copy the whole folder of the run, or run it again")
        found = read_predictions(file)
        if len(found.index) != self.n:
            raise UserError(
                f"{file}: has {len(found.index)} images, {RESULTS_FILE} says {self.n}: one of them is not of this run"
            )
        return found

    def label_probabilities(self, when: str) -> Any:
        """``(L,)`` float64 probabilities of the labels, of images with one; None if the files do not tell them all.

        Args:
            when: ``before`` or ``after``.
        """
        file = self.folder / RANKED_FILE
        return label_probabilities(file, when) if file.exists() else None

    def complete_probabilities(self, when: str) -> Any:
        """``(L, 2)`` float64: the label's probability and the sum of all squares; None if not all classes are listed.

        Args:
            when: ``before`` or ``after``.
        """
        file = self.folder / RANKED_FILE
        return complete_probabilities(file, when) if file.exists() else None


def find_runs(given: Sequence[str]) -> list[Run]:
    """The runs of some folders, each once.

    Args:
        given: Folders of runs, or folders that hold such at any depth; as ``NAME=FOLDER`` the rows of these runs are
            called ``NAME`` (of several methods: ``NAME method``).

    Raises:
        UserError: If a folder does not exist or has no results, a run is half written, or a ``results.json`` is
            damaged or of a newer lorattt.
    """
    found: dict[Path, Run] = {}
    for text in given:
        name, folder = _named(text)
        files = _results_below(folder)
        several = len({_read(file)["method"] for file in files}) > 1 if name else False
        for file in files:
            key = file.parent.resolve()
            if key not in found:
                found[key] = _run(file, name, several)
    return list(found.values())


def _named(text: str) -> tuple[str | None, Path]:
    name, equals, folder = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    if not name.strip() or not folder:
        raise UserError(f"{text}: write it as NAME=FOLDER")
    return name.strip(), Path(folder).expanduser()


def _results_below(folder: Path) -> list[Path]:
    if folder.name == RESULTS_FILE and folder.is_file():
        folder = folder.parent
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder: name the folder of a run, or one that holds runs")
    files, parts = [], []
    for above, folders, names in os.walk(folder):
        folders.sort()  # the order of the runs is that of their names
        files += [Path(above, name) for name in names if name == RESULTS_FILE]
        begun = [Path(above, name) for name in sorted(names) if any(fnmatch(name, each) for each in _PARTS)]
        parts += [path for path in begun if path.stat().st_size]  # an empty one: ended by a mistake, before any image
    for part in parts:
        # Of several methods, the devices' files lie above the folders of the methods.
        if part.parent / RESULTS_FILE not in files and not _all_there(part.parent, files):
            raise UserError(
                f"{part.parent}: half written ({part.name}, no {RESULTS_FILE}): finish or resume the run first"
            )
    if not files:
        raise UserError(f"{folder}: no {RESULTS_FILE} here or below: name the folder of a finished test run")
    return sorted(files)


def _all_there(home: Path, files: Sequence[Path]) -> bool:
    """Whether a folder holds the results of all methods of one run."""
    below = [file for file in files if file.parent.parent == home]
    shared = [row["shared_with"] for row in map(_read, below) if "shared_with" in row]
    return bool(shared) and all(home / str(each) / RESULTS_FILE in below for names in shared for each in names)


def _run(file: Path, name: str | None, several: bool) -> Run:
    row = _read(file)
    corruption = row.get("corruption")
    return Run(
        folder=file.parent,
        name=f"{name} {row['method']}" if name and several else name,
        corruption=None if corruption is None else Corruption(**{key: corruption[key] for key in _CORRUPTION}),
        shared_with=tuple(row.get("shared_with", ())),
        measures={key: _number(row[key]) for key in row if key.endswith(("_before", "_after"))},
        results=row,
        **{key: row[key] for key in _STATED},
    )


def _read(file: Path) -> dict[str, Any]:
    """What ``results.json`` holds, every value of its kind."""
    try:
        row = json.loads(_text(file))
    except ValueError as error:
        raise UserError(f"{file}: damaged JSON ({_one_line(error)}): restore the file, or run again") from error
    if not isinstance(row, dict):
        raise UserError(f"{file}: not a results.json of lorattt: it holds no object")
    written = row.get("format", 1)
    if not isinstance(written, int) or written > FORMAT:
        version = row.get("versions", {}).get("lorattt", "unknown") if isinstance(row.get("versions"), dict) else "?"
        raise UserError(
            f"{file}: format {written} of lorattt {version}, this one reads up to {FORMAT}: install that lorattt"
        )
    _check(file, row, _STATED)
    if row.get("corruption") is not None:
        if not isinstance(row["corruption"], dict):
            raise UserError(f"{file}: corruption is no object: run again")
        _check(file, row["corruption"], _CORRUPTION, "corruption.")
    for key, value in row.items():
        if not key.endswith(("_before", "_after")) or value is None:  # a measure of answers that are not finite
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{file}: {key} is {quoted(value)}, not a number: run again")
    return row


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _check(file: Path, row: dict[str, Any], stated: dict[str, tuple[type, ...]], above: str = "") -> None:
    missing = [above + key for key in stated if key not in row]
    if missing:
        raise UserError(f"{file}: has no {', '.join(missing)}: written by another version of lorattt, or edited")
    for key, kinds in stated.items():
        if isinstance(row[key], bool) or not isinstance(row[key], kinds):
            raise UserError(f"{file}: {above}{key} is {quoted(row[key])}, not of type {kinds[-1].__name__}: run again")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 (byte {error.start}): restore the file, or run again") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
