"""``predictions.csv`` and ``predictions.jsonl`` read back as arrays."""

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorattt.errors import UserError, quoted, shortened

_NUMBERS: Final = ("index", "label", "prediction_before", "prediction_after")
_SHARES: Final = ("confidence_before", "confidence_after")
_ENTROPIES: Final = ("entropy_before", "entropy_after")
COLUMNS: Final = ("index", "path", "label", *_NUMBERS[2:], *_SHARES)
"""The columns of ``predictions.csv`` that a report needs; others may be there or not."""
_DIGIT: Final = 5e-7  # what rounding to the files' six digits may take from a probability


@dataclass(frozen=True)
class Predictions:
    """One method's predictions, before and after adaptation, by rising index of the N images.

    Attributes:
        index: ``(N,)`` int64 dataset-wide numbers of the images, each once.
        path: The N images' names.
        label: ``(N,)`` int64, -1 where it is not known.
        prediction: ``(N,)`` int64 class numbers, under ``before`` and ``after``; -1 for answers that are not finite.
        confidence: ``(N,)`` float64 probabilities of the predictions, under ``before`` and ``after``.
        entropy: ``(N,)`` float64 entropies in nats, under ``before`` and ``after``; NaN where the file has none.
    """

    index: NDArray[np.int64]
    path: list[str]
    label: NDArray[np.int64]
    prediction: dict[str, NDArray[np.int64]]
    confidence: dict[str, NDArray[np.float64]]
    entropy: dict[str, NDArray[np.float64]]

    @property
    def known(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: which images have a label."""
        found: NDArray[np.bool_] = self.label >= 0
        return found

    def right(self, when: str) -> NDArray[np.bool_]:
        """``(L,)`` bool: which of the L labelled images are classified rightly, ``before`` or ``after``."""
        found: NDArray[np.bool_] = (self.prediction[when] == self.label)[self.known]
        return found


def read_predictions(file: Path) -> Predictions:
    """Read ``predictions.csv``.

    Raises:
        UserError: If a column is missing, a line is cut off or holds no number where one belongs or NUL bytes, an image
            occurs twice, or the file is not UTF-8.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.reader(_without_nul(file, lines), strict=True)
            header = next(rows, [])
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise UserError(
                    f"{file}: has no column {', '.join(missing)}: written by another version of lorattt, or edited"
                )
            columns: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, *_ENTROPIES)}
            places = [(columns[name], header.index(name), name) for name in columns if name in header]
            for row in rows:
                if len(row) != len(header):
                    raise UserError(
                        f"{file} line {rows.line_num}: has {len(row)} of {len(header)} fields: the file was cut off"
                    )
                for values, place, name in places:
                    try:
                        values.append(_value(name, row[place]))
                    except ValueError:
                        raise UserError(
                            f"{file} line {rows.line_num}: {name} is {quoted(row[place])}, not a number: restore the "
                            "file"
                        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 ({error.reason}): restore the file, or run again") from error
    except csv.Error as error:
        raise UserError(
            f"{file} line {rows.line_num}: damaged CSV ({error}): restore the file, or run again"
        ) from error
    return _sorted(file, columns)


def _without_nul(file: Path, lines: Iterable[str]) -> Iterator[str]:
    """The lines; Python 3.10's reader of CSV raises for a NUL byte, later ones take it as a letter."""
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"{file} line {number}: damaged (NUL bytes): restore the file, or run again")
        yield line


def _value(name: str, text: str) -> int | float | str:
    if name == "path":
        return text
    if name in _SHARES or name in _ENTROPIES:
        return float(text)
    # A label that is not known is empty, and so is the prediction of an answer that is not finite.
    return int(text) if text or name == "index" else -1


def _sorted(file: Path, columns: dict[str, list[Any]]) -> Predictions:
    unknown = [math.nan] * len(columns["index"])
    index = np.array(columns["index"], dtype=np.int64)
    order = np.argsort(index, kind="stable")
    index = index[order]
    twice = np.flatnonzero(index[1:] == index[:-1])
    if len(twice):
        raise UserError(f"{file}: image {index[twice[0]]} occurs more than once: restore the file, or run again")
    return Predictions(
        index=index,
        path=[columns["path"][place] for place in order],
        label=np.array(columns["label"], dtype=np.int64)[order],
        prediction={w: np.array(columns[f"prediction_{w}"], dtype=np.int64)[order] for w in ("before", "after")},
        confidence={w: np.array(columns[f"confidence_{w}"], dtype=np.float64)[order] for w in ("before", "after")},
        entropy={w: np.array(columns[f"entropy_{w}"] or unknown)[order] for w in ("before", "after")},
    )


def complete_probabilities(file: Path, when: str) -> NDArray[np.float64] | None:
    """What Brier's score takes from an image's probabilities, from ``predictions.jsonl``.

    Returns:
        ``(L, 2)``, of the images with a label: the label's probability and the sum of the squares of all; None where
        the listed probabilities of some image are not all there are. Reading ends at the first such image.

    Raises:
        UserError: If the file is damaged.
    """
    found = []
    for label, listed in _labelled(file, when):
        if sum(listed.values()) < 1 - _DIGIT * (len(listed) + 1):
            return None
        found.append((listed.get(label, 0.0), sum(share * share for share in listed.values())))
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _labelled(file: Path, when: str) -> Iterator[tuple[int, dict[int, float]]]:
    """Label, and the listed classes' probabilities, of each image with a label."""
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                entry = json.loads(line)
                if entry["label"] is not None:
                    # A model that overflowed has null for a probability, which is then not known.
                    listed = {int(each["label"]): float(each["probability"] or 0.0) for each in entry[when]}
                    yield int(entry["label"]), listed
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 ({error.reason}): restore the file, or run again") from error
    except (ValueError, TypeError, KeyError) as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise UserError(f"{file} line {number}: damaged ({reason}): restore the file, or run again") from error
