"""What a run says of each image beyond its first answer: the classes listed and their names."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorattt.errors import UserError
from lorattt.report.escape import shorten
from lorattt.report.measures import WHEN
from lorattt.report.runs import PREDICTIONS_FILE, RANKED_FILE, Run

MOST_LISTED: Final = 5
"""So many classes of an image are kept, the most probable ones."""
SHARES: Final = 10_000
"""Probabilities are kept as whole numbers of this part."""


@dataclass(frozen=True)
class Details:
    """The classes listed for the N images of a run, by rising index, as its predictions are.

    Attributes:
        names: Class names by number, those that the run's files tell; not made harmless.
        classes: ``(N, T)`` int32 class numbers under ``before`` and ``after``, most probable first; -1 for none.
        shares: ``(N, T)`` int32 their probabilities in parts of :data:`SHARES`; -1 for none.
        fallback: ``(N,)`` bool: images that kept their prediction as adaptation was not finite.
    """

    names: dict[int, str]
    classes: dict[str, NDArray[np.int32]]
    shares: dict[str, NDArray[np.int32]]
    fallback: NDArray[np.bool_]


def read_details(run: Run) -> Details:
    """Read ``predictions.jsonl``, and names from ``predictions.csv`` too; without the former, first answers alone.

    Raises:
        UserError: If a file is damaged.
    """
    predictions = run.predictions
    count = len(predictions.index)
    place = {int(index): number for number, index in enumerate(predictions.index)}
    classes = {when: np.full((count, MOST_LISTED), -1, dtype=np.int32) for when in WHEN}
    shares = {when: np.full((count, MOST_LISTED), -1, dtype=np.int32) for when in WHEN}
    for when in WHEN:
        classes[when][:, 0] = predictions.prediction[when]
        shares[when][:, 0] = share_of(predictions.confidence[when])
    fallback = np.zeros(count, dtype=np.bool_)
    names = names_in_table(run)
    file, number = run.folder / RANKED_FILE, 0
    if file.exists():
        try:
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    number += 1
                    entry = json.loads(line)
                    row = place.get(entry["index"])
                    if row is None:
                        continue
                    fallback[row] = bool(entry.get("fallback"))
                    for when in WHEN:
                        listed = entry[when][:MOST_LISTED]
                        if not listed:
                            continue
                        known = [int(each["label"]) for each in listed]
                        classes[when][row, : len(known)] = known
                        shares[when][row, : len(known)] = [_share(each["probability"]) for each in listed]
                        names.update({label: str(each["class"]) for label, each in zip(known, listed, strict=True)})
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: is not UTF-8 ({error.reason}): restore the file, or run again") from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            reason = shorten(" ".join(str(error).split()), 200)
            raise UserError(f"{file} line {number}: damaged ({reason}): restore the file, or run again") from error
    return Details({label: name for label, name in names.items() if name}, classes, shares, fallback)


def share_of(probabilities: NDArray[np.float64]) -> NDArray[np.int32]:
    """``(N,)`` probabilities as parts of :data:`SHARES`; -1 for what is not finite."""
    known = np.isfinite(probabilities)
    found: NDArray[np.int32] = np.where(known, np.rint(SHARES * np.where(known, probabilities, 0)), -1).astype(np.int32)
    return found


def _share(probability: Any) -> int:
    return -1 if probability is None else round(SHARES * float(probability))


def names_in_table(run: Run) -> dict[int, str]:
    """The names of the classes that ``predictions.csv`` tells; it has been read before, so that it is whole."""
    found: dict[int, str] = {}
    with (run.folder / PREDICTIONS_FILE).open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(lines)  # no NUL in them: the predictions have been read before
        header = next(rows)
        pairs = [
            (header.index(f"prediction_{when}"), header.index(f"name_{when}"))
            for when in WHEN
            if f"name_{when}" in header
        ]
        for row in rows:
            for number, name in pairs:
                if row[number]:
                    found.setdefault(int(row[number]), row[name])
    return found


def share_names(runs: Sequence[Run], details: Mapping[int, Details]) -> None:
    """Give each run the names that others of the same dataset tell, where it has none of its own.

    Args:
        runs: The runs.
        details: Their details, by the runs' identities.
    """
    known: dict[str, dict[int, str]] = {}
    for run in runs:
        for label, name in details[id(run)].names.items():
            known.setdefault(run.dataset, {}).setdefault(label, name)
    for run in runs:
        for label, name in known.get(run.dataset, {}).items():
            details[id(run)].names.setdefault(label, name)


def class_name(names: Mapping[int, str], label: int) -> str:
    """A class's name, or its number where no file tells it."""
    return "no finite answer" if label < 0 else names.get(label) or f"class {label}"
