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

WHEN = ("before", "after")
_SIDES = tuple(f"{key}_{when}" for key in ("prediction", "confidence", "entropy", "name") for when in WHEN)
COLUMNS = ("index", "path", "label", *_SIDES)
SKIPPED_COLUMNS = ("index", "path", "reason")


@dataclass
class Totals:
    """Counts and measures over the images of all devices and attempts; the last three by method."""

    rows: int = 0  # images that were classified
    skipped: int = 0  # images that could not be read
    fallbacks: dict[str, int] = field(default_factory=dict)  # adaptation was not finite
    not_finite: dict[str, int] = field(default_factory=dict)  # logits before adaptation were not: the towers overflow
    measures: dict[str, dict[str, float | int]] = field(default_factory=dict)


def merge(folder: Path, found: Journals, methods: dict[str, Any], class_names: list[str]) -> Totals:
    """Write each method's ``predictions.csv`` and ``predictions.jsonl`` and, if images were skipped, ``skipped.csv``.

    ``methods`` are those of the run by the names of their folders; their ``metrics`` sum the scores in the journals.
    """
    totals, skipped = Totals(len(found.done), len(found.bad)), folder / "skipped.csv"
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
            rows = csv.writer(files.enter_context(atomic_write(skipped)))
            rows.writerow(SKIPPED_COLUMNS)
            for bad in entries_at(found.bad[index] for index in sorted(found.bad)):
                rows.writerow([bad[key] for key in SKIPPED_COLUMNS])
    if not found.bad:  # of an earlier attempt to merge
        skipped.unlink(missing_ok=True)
    for name, method in methods.items():
        metrics = getattr(method, "metrics", None)
        totals.measures[name] = {} if metrics is None else metrics.total(scores[name])
    return totals


class _Files:
    """One method's predictions; an answer that is not finite has no class, which is an empty field."""

    def __init__(self, folder: Path, class_names: list[str], files: ExitStack) -> None:
        # Not every reader of CSV takes a NUL byte.
        self._names = [name.replace("\0", "\\x00") for name in class_names]
        folder.mkdir(parents=True, exist_ok=True)
        self._table = csv.writer(files.enter_context(atomic_write(folder / "predictions.csv")))
        self._lines = files.enter_context(atomic_write(folder / "predictions.jsonl"))
        self._table.writerow(COLUMNS)

    def write(self, entry: dict[str, Any], answer: dict[str, Any]) -> None:
        """Write the method's prediction for an image."""
        image = {key: entry[key] for key in ("index", "path", "label")}
        classes, probabilities = zip(*(first_class(answer[when]) for when in WHEN), strict=True)
        shown = [f"{float(p):.6f}" for p in (*probabilities, *(answer[when]["entropy"] for when in WHEN))]
        # None is an empty field.
        self._table.writerow([*image.values(), *classes, *shown, *map(self._name, classes)])
        ranked = {
            when: [
                {"class": self._name(number), "label": number, "probability": round(p, 6)}
                for number, p in answer[when]["top"]
            ]
            for when in WHEN
        }
        line = {**image, **ranked, "fallback": answer["fallback"]}
        self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")

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
