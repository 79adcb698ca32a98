"""``predictions.csv`` and ``predictions.jsonl`` read back as arrays."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorattt.errors import UserError, one_line, quoted, shortened
from lorattt.inputs import read_text

WHEN: Final = ("before", "after")
RESTORE: Final = "restore the file, or run again"
MOST_LISTED: Final = 5  # how many classes of an image are kept, the most probable ones
SHARES: Final = 10_000  # probabilities are kept as whole numbers of this part
_DIGIT: Final = 5e-7  # largest error of a probability rounded to the files' six digits


def _class_number(text: str) -> int:
    # A label that is not known is empty, and so is the prediction of an answer that is not finite.
    return int(text) if text else -1


_Convert = dict[str, Callable[[str], Any]]
_SIDES: Final[_Convert] = {"prediction": _class_number, "confidence": float, "entropy": float, "name": str}
_CONVERT: Final[_Convert] = {"index": int, "path": str, "label": _class_number}
_CONVERT.update((f"{name}_{when}", convert) for name, convert in _SIDES.items() for when in WHEN)
_OPTIONAL: Final = ("entropy", "name")


@dataclass(frozen=True)
class Predictions:
    """One method's predictions by rising index of the N images; dictionaries of arrays are by ``before``, ``after``."""

    index: NDArray[np.int64]  # (N,) dataset-wide numbers of the images, each once
    path: list[str]  # the N images' names
    label: NDArray[np.int64]  # (N,), -1 where not known
    prediction: dict[str, NDArray[np.int64]]  # (N,) class numbers; -1 for answers that are not finite
    confidence: dict[str, NDArray[np.float64]]  # (N,) probabilities of the predictions
    entropy: dict[str, NDArray[np.float64]]  # (N,) in nats; NaN where the file has none
    names: dict[int, str]  # of the classes predicted, by class number; empty where the file has none

    @property
    def known(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: which images have a label."""
        found: NDArray[np.bool_] = self.label >= 0
        return found

    def right(self, when: str) -> NDArray[np.bool_]:
        """``(L,)`` bool: which of the L labelled images are classified rightly, ``before`` or ``after``."""
        found: NDArray[np.bool_] = (self.prediction[when] == self.label)[self.known]
        return found

    def top1(self, when: str) -> float:
        """Share of the labelled images that are classified rightly; NaN of none."""
        right = self.right(when)
        return float(right.mean()) if len(right) else math.nan


def read_predictions(file: Path) -> Predictions:
    """Read ``predictions.csv``; entropies and names may be missing."""
    rows = csv.reader(io.StringIO(read_text(file, RESTORE), newline=""), strict=True)
    columns: dict[str, list[Any]] = {name: [] for name in _CONVERT}
    try:
        header = next(rows, [])
        if missing := [name for name in _CONVERT if name not in header and not name.startswith(_OPTIONAL)]:
            raise UserError(
                f"{file}: has no column {', '.join(missing)}: written by another version of lorattt, or edited"
            )
        places = [(columns[name], header.index(name), _CONVERT[name], name) for name in columns if name in header]
        for row in rows:
            if len(row) != len(header):
                raise UserError(
                    f"{file} line {rows.line_num}: has {len(row)} of {len(header)} fields: the file was cut off"
                )
            for values, place, converted, name in places:
                try:
                    values.append(converted(row[place]))
                except ValueError:
                    raise UserError(
                        f"{file} line {rows.line_num}: {name} is {quoted(row[place])}, not a number: restore the file"
                    ) from None
    except csv.Error as error:
        raise UserError(f"{file} line {rows.line_num}: damaged CSV ({error}): {RESTORE}") from error
    return _sorted(file, columns)


def _sorted(file: Path, columns: Mapping[str, list[Any]]) -> Predictions:
    index = np.array(columns["index"], dtype=np.int64)
    order = np.argsort(index, kind="stable")
    index = index[order]
    twice = np.flatnonzero(index[1:] == index[:-1])
    if len(twice):
        raise UserError(f"{file}: image {index[twice[0]]} occurs more than once: {RESTORE}")
    names: dict[int, str] = {}
    for when in WHEN:
        named = zip(columns[f"prediction_{when}"], columns[f"name_{when}"], strict=False)
        names |= {label: name for label, name in named if name and label >= 0}
    return Predictions(
        index=index,
        path=[columns["path"][place] for place in order],
        label=np.array(columns["label"], dtype=np.int64)[order],
        prediction={w: np.array(columns[f"prediction_{w}"], dtype=np.int64)[order] for w in WHEN},
        confidence={w: np.array(columns[f"confidence_{w}"], dtype=np.float64)[order] for w in WHEN},
        entropy={w: np.array(columns[f"entropy_{w}"] or [math.nan] * len(index))[order] for w in WHEN},
        names=names,
    )


class _Ranked(NamedTuple):
    """A line of ``predictions.jsonl``: an image, and its most probable classes as number, name and probability."""

    image: int
    label: int | None
    fallback: bool
    classes: dict[str, list[tuple[int, str, float]]]


def _read_ranked(file: Path, most: int | None = None) -> Iterator[_Ranked]:
    """The lines of ``predictions.jsonl``, with at most so many classes each."""
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                entry = json.loads(line)
                label = None if entry["label"] is None else int(entry["label"])
                classes = {when: [_listed(each) for each in entry[when][:most]] for when in WHEN}
                yield _Ranked(int(entry["index"]), label, bool(entry.get("fallback")), classes)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 ({error.reason}): {RESTORE}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} line {number}: damaged ({shortened(one_line(error), 200)}): {RESTORE}") from error


def _listed(each: Mapping[str, Any]) -> tuple[int, str, float]:
    number = int(each["label"])
    # The probabilities of a model that overflowed are null.
    probability = 0.0 if each["probability"] is None else float(each["probability"])
    if not 0 <= number < 2**31 or not 0 <= probability <= 1.001:
        raise ValueError("a class or a probability out of range")
    return number, str(each["class"]), math.nan if each["probability"] is None else probability


def complete_probabilities(file: Path) -> dict[str, NDArray[np.float64]]:
    """What the Brier score needs of ``predictions.jsonl``, under ``before`` and ``after``; empty without that file.

    ``(L, 2)``, of the images with a label: the label's probability and the sum of the squares of all. A side of which
    some image does not list all classes is left out.
    """
    found: dict[str, list[tuple[float, float]]] = {when: [] for when in WHEN if file.exists()}
    for line in _read_ranked(file) if found else ():
        if line.label is None:
            continue
        for when in list(found):
            listed = {number: share for number, _, share in line.classes[when]}
            # NaN is not complete either.
            if sum(listed.values()) >= 1 - _DIGIT * (len(listed) + 1):
                found[when].append((listed.get(line.label, 0.0), sum(share * share for share in listed.values())))
            else:
                del found[when]
        if not found:
            break
    return {when: np.array(values).reshape(-1, 2) for when, values in found.items()}


@dataclass(frozen=True)
class TopK:
    """The T most probable classes of the N images of a run, by rising index, under ``before`` and ``after``."""

    names: dict[int, str]  # by class number, as the run's files give them; not escaped
    classes: dict[str, NDArray[np.int32]]  # (N, T) class numbers, most probable first; -1 for none
    shares: dict[str, NDArray[np.int32]]  # (N, T) their probabilities in parts of SHARES; -1 for none
    fallback: NDArray[np.bool_]  # (N,) images that kept their prediction as adaptation was not finite


def read_top_k(predictions: Predictions, file: Path) -> TopK:
    """Read ``predictions.jsonl``; without it, the predictions are the only classes."""
    count = len(predictions.index)
    rows = {int(index): row for row, index in enumerate(predictions.index)}
    classes = {when: np.full((count, MOST_LISTED), -1, dtype=np.int32) for when in WHEN}
    probabilities = {when: np.full((count, MOST_LISTED), np.nan) for when in WHEN}
    for when in WHEN:
        classes[when][:, 0] = predictions.prediction[when]
        probabilities[when][:, 0] = predictions.confidence[when]
    fallback = np.zeros(count, dtype=np.bool_)
    names = dict(predictions.names)
    for line in _read_ranked(file, MOST_LISTED) if file.exists() else ():
        if (row := rows.get(line.image)) is None:
            continue
        fallback[row] = line.fallback
        for when in WHEN:
            for rank, (label, name, probability) in enumerate(line.classes[when]):
                classes[when][row, rank] = label
                probabilities[when][row, rank] = probability
                names[label] = name
    shares = {when: share_of(probabilities[when]) for when in WHEN}
    return TopK({label: name for label, name in names.items() if name}, classes, shares, fallback)


def share_of(probabilities: NDArray[np.float64]) -> NDArray[np.int32]:
    """Probabilities as parts of :data:`SHARES`; -1 for what is not finite."""
    known = np.isfinite(probabilities)
    found: NDArray[np.int32] = np.where(known, np.rint(SHARES * np.where(known, probabilities, 0)), -1).astype(np.int32)
    return found


def class_name(names: Mapping[int, str], label: int) -> str:
    """A class's name, or its number where no file has the name."""
    return "no finite answer" if label < 0 else names.get(label) or f"class {label}"
