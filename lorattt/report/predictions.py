"""``predictions.csv`` and ``predictions.jsonl`` read back as arrays."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorattt.errors import UserError, one_line, quoted, shortened

WHEN: Final = ("before", "after")
_NUMBERS: Final = ("index", "label", "prediction_before", "prediction_after")
_SHARES: Final = ("confidence_before", "confidence_after")
_ENTROPIES: Final = ("entropy_before", "entropy_after")
_NAMES: Final = ("name_before", "name_after")
COLUMNS: Final = ("index", "path", "label", *_NUMBERS[2:], *_SHARES)
"""The columns of ``predictions.csv`` that a report needs; entropies and names may be missing."""
_DIGIT: Final = 5e-7  # largest error of a probability rounded to the files' six digits


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
        names: Names of the classes predicted, by class number; empty where the file has none.
    """

    index: NDArray[np.int64]
    path: list[str]
    label: NDArray[np.int64]
    prediction: dict[str, NDArray[np.int64]]
    confidence: dict[str, NDArray[np.float64]]
    entropy: dict[str, NDArray[np.float64]]
    names: dict[int, str]

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
            columns: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, *_ENTROPIES, *_NAMES)}
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
    if name == "path" or name in _NAMES:
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
    names: dict[int, str] = {}
    named = [zip(columns[f"prediction_{when}"], columns[f"name_{when}"], strict=False) for when in WHEN]
    for label, name in chain.from_iterable(zip(*named, strict=False)):
        if name and label >= 0:
            names.setdefault(label, name)
    return Predictions(
        index=index,
        path=[columns["path"][place] for place in order],
        label=np.array(columns["label"], dtype=np.int64)[order],
        prediction={w: np.array(columns[f"prediction_{w}"], dtype=np.int64)[order] for w in WHEN},
        confidence={w: np.array(columns[f"confidence_{w}"], dtype=np.float64)[order] for w in WHEN},
        entropy={w: np.array(columns[f"entropy_{w}"] or unknown)[order] for w in WHEN},
        names=names,
    )


def complete_probabilities(file: Path) -> dict[str, NDArray[np.float64] | None]:
    """What the Brier score needs of the probabilities in ``predictions.jsonl``, under ``before`` and ``after``.

    Returns:
        ``(L, 2)``, of the images with a label: the label's probability and the sum of the squares of all; None where
        some image does not list all classes. Reading ends where both are None.

    Raises:
        UserError: If the file is damaged.
    """
    found: dict[str, list[tuple[float, float]]] = {when: [] for when in WHEN}

    def take(entry: dict[str, Any]) -> bool:
        if entry["label"] is not None:
            for when in list(found):
                # The probabilities of a model that overflowed are null.
                listed = {int(each["label"]): float(each["probability"] or 0.0) for each in entry[when]}
                if sum(listed.values()) < 1 - _DIGIT * (len(listed) + 1):
                    del found[when]
                else:
                    squares = sum(share * share for share in listed.values())
                    found[when].append((listed.get(int(entry["label"]), 0.0), squares))
        return bool(found)

    read_ranked(file, take)
    return {when: np.array(found[when]).reshape(-1, 2) if when in found else None for when in WHEN}


def read_ranked(file: Path, take: Callable[[dict[str, Any]], bool]) -> None:
    """Call ``take`` with each line of ``predictions.jsonl`` as long as it returns True.

    Raises:
        UserError: If the file is damaged: no UTF-8 or JSON, or ``take`` does not find what it needs.
    """
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                if not take(json.loads(line)):
                    return
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 ({error.reason}): restore the file, or run again") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{file} line {number}: damaged ({shortened(one_line(error), 200)}): restore the file, or run again"
        ) from error
