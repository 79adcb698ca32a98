"""Merges the journals into the files of a finished run; each file is complete or absent."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lorattt.callbacks.journal import Journals, entries_at, first_class, saving

COLUMNS = (
    "index",
    "path",
    "label",
    "prediction_before",
    "prediction_after",
    "confidence_before",
    "confidence_after",
    "entropy_before",
    "entropy_after",
    "name_before",
    "name_after",
)
SKIPPED_COLUMNS = ("index", "path", "reason")
_SKIPPED = "skipped.csv"
_WHEN = ("before", "after")


@dataclass
class Totals:
    """Counts and measures of the merged files.

    Attributes:
        rows: How many images were classified, by all devices and attempts.
        skipped: How many could not be read.
        fallbacks: How often adaptation was not finite, by method.
        not_finite: How many images had logits that were not finite without adaptation: an overflow of the towers.
        measures: The metrics over all images, by method.
    """

    rows: int = 0
    skipped: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)
    measures: dict[str, dict[str, float | int]] = field(default_factory=dict)


def merge(folder: Path, found: Journals, methods: dict[str, Any], class_names: list[str]) -> Totals:
    """Write each method's ``predictions.csv`` and ``predictions.jsonl`` and, if images were skipped, ``skipped.csv``.

    Args:
        folder: The run's folder; each method has a folder of its name in it.
        found: The folder's journals.
        methods: The methods by name; their ``metrics`` sum the scores in the journals.
        class_names: Names in label order.
    """
    totals = Totals(len(found.done), len(found.bad))
    scores: dict[str, list[list[float]]] = {name: [] for name in methods}
    totals.fallbacks, totals.not_finite = dict.fromkeys(methods, 0), dict.fromkeys(methods, 0)
    with saving(folder / "predictions.csv", folder), ExitStack() as files:
        writers = {name: _Files(folder / name, class_names, files) for name in methods}
        for entry in entries_at(found.done[index] for index in sorted(found.done)):
            for name, writer in writers.items():
                answer = entry["answers"][name]
                writer.write(entry, answer)
                totals.fallbacks[name] += answer["fallback"]
                totals.not_finite[name] += first_class(answer["before"])[0] is None
                if answer["scores"] is not None:
                    scores[name].append([float(score) for score in answer["scores"]])
        if found.bad:
            rows = csv.writer(files.enter_context(atomic_write(folder / _SKIPPED)))
            rows.writerow(SKIPPED_COLUMNS)
            for bad in entries_at(found.bad[index] for index in sorted(found.bad)):
                rows.writerow([bad[key] for key in SKIPPED_COLUMNS])
    if not found.bad:  # of an earlier attempt to merge
        (folder / _SKIPPED).unlink(missing_ok=True)
    for name, method in methods.items():
        metrics = getattr(method, "metrics", None)
        totals.measures[name] = {} if metrics is None else metrics.total(scores[name])
    return totals


class _Files:
    """One method's predictions; the class of an answer that is not finite is an empty field."""

    def __init__(self, folder: Path, class_names: list[str], files: ExitStack) -> None:
        # Not every reader of CSV takes a NUL byte.
        self._names = [name.replace("\0", "\\x00") for name in class_names]
        folder.mkdir(parents=True, exist_ok=True)
        self._table = csv.writer(files.enter_context(atomic_write(folder / "predictions.csv")))
        self._lines = files.enter_context(atomic_write(folder / "predictions.jsonl"))
        self._table.writerow(COLUMNS)

    def write(self, entry: dict[str, Any], answer: dict[str, Any]) -> None:
        """Write the method's prediction for an image."""
        label = entry["label"]
        first = [first_class(answer[when]) for when in _WHEN]
        shown = [f"{p:.6f}" for _, p in first] + [f"{float(answer[when]['entropy']):.6f}" for when in _WHEN]
        numbers = ["" if number is None else number for number in (label, *(number for number, _ in first))]
        named = [self._name(number) for number, _ in first]
        self._table.writerow((entry["index"], entry["path"], *numbers, *shown, *named))
        line = {key: entry[key] for key in ("index", "path", "label")}
        ranked = {when: self._ranked(answer[when]) for when in _WHEN}
        line |= {**ranked, "fallback": answer["fallback"]}
        self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _ranked(self, side: dict[str, Any]) -> list[dict[str, Any]]:
        """The classes listed; none of an answer that is not finite."""
        listed = [] if first_class(side)[0] is None else side["top"]
        return [{"class": self._name(number), "label": number, "probability": round(p, 6)} for number, p in listed]

    def _name(self, number: int | None) -> str:
        return self._names[number] if number is not None and number < len(self._names) else ""


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Open a text file that replaces an older one when it is complete and on the disk."""
    part = path.with_name(path.name + ".part")
    try:
        # A file's name need not be valid UTF-8: other bytes are written as escapes.
        with part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)
