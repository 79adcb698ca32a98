"""The most probable classes of each image, and the names of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorattt.report.predictions import WHEN, read_ranked
from lorattt.report.runs import RANKED_FILE, Run

MOST_LISTED: Final = 5
"""How many classes of an image are kept, the most probable ones."""
SHARES: Final = 10_000
"""Probabilities are kept as whole numbers of this part."""


@dataclass(frozen=True)
class TopK:
    """The classes listed for the N images of a run, by rising index, as its predictions are.

    Attributes:
        names: Class names by number, as the run's files give them; not escaped.
        classes: ``(N, T)`` int32 class numbers under ``before`` and ``after``, most probable first; -1 for none.
        shares: ``(N, T)`` int32 their probabilities in parts of :data:`SHARES`; -1 for none.
        fallback: ``(N,)`` bool: images that kept their prediction as adaptation was not finite.
    """

    names: dict[int, str]
    classes: dict[str, NDArray[np.int32]]
    shares: dict[str, NDArray[np.int32]]
    fallback: NDArray[np.bool_]


def read_top_k(run: Run) -> TopK:
    """Read a run's ``predictions.jsonl``; without it, the predictions are the only classes.

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
    names = dict(predictions.names)

    def take(entry: dict[str, Any]) -> bool:
        row = place.get(entry["index"])
        if row is None:
            return True
        fallback[row] = bool(entry.get("fallback"))
        for when in WHEN:
            for rank, each in enumerate(entry[when][:MOST_LISTED]):
                label, probability = int(each["label"]), each["probability"]
                classes[when][row, rank] = label
                shares[when][row, rank] = -1 if probability is None else round(SHARES * float(probability))
                names[label] = str(each["class"])
        return True

    if (run.folder / RANKED_FILE).exists():
        read_ranked(run.folder / RANKED_FILE, take)
    return TopK({label: name for label, name in names.items() if name}, classes, shares, fallback)


def share_of(probabilities: NDArray[np.float64]) -> NDArray[np.int32]:
    """``(N,)`` probabilities as parts of :data:`SHARES`; -1 for what is not finite."""
    known = np.isfinite(probabilities)
    found: NDArray[np.int32] = np.where(known, np.rint(SHARES * np.where(known, probabilities, 0)), -1).astype(np.int32)
    return found


def share_names(runs: Sequence[Run], top_k: Mapping[int, TopK]) -> None:
    """Give each run the names that others of the same dataset have, where it has none of its own.

    Args:
        runs: The runs.
        top_k: Their classes, by the runs' identities.
    """
    known: dict[str, dict[int, str]] = {}
    for run in runs:
        for label, name in top_k[id(run)].names.items():
            known.setdefault(run.dataset, {}).setdefault(label, name)
    for run in runs:
        for label, name in known.get(run.dataset, {}).items():
            top_k[id(run)].names.setdefault(label, name)


def class_name(names: Mapping[int, str], label: int) -> str:
    """A class's name, or its number where no file has the name."""
    return "no finite answer" if label < 0 else names.get(label) or f"class {label}"
