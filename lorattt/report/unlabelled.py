"""Runs without labels: which classes they predict, with which confidence, and what adaptation changed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lorattt.report.layout import dataset_title
from lorattt.report.predictions import WHEN
from lorattt.report.runs import Run
from lorattt.report.tables import Cell, Table, speed_cell
from lorattt.report.topk import class_name

_LISTED: Final = 10


@dataclass(frozen=True)
class Answers:
    """Predictions before or after adaptation.

    Attributes:
        confidence: Mean probability of the predictions, in [0, 1]; NaN where one is not finite.
        entropy: Mean entropy in nats; NaN where one is not known.
        classes: How many classes are predicted.
    """

    confidence: float
    entropy: float
    classes: int


@dataclass(frozen=True)
class Unlabelled:
    """A run without labels.

    Attributes:
        run: The run.
        label: What its rows are called.
        changed: Share of the images whose prediction adaptation changed.
        before: Before adaptation.
        after: After it.
        classes: Name, images before and images after, of the classes predicted, by falling number after.
    """

    run: Run
    label: str
    changed: float
    before: Answers
    after: Answers
    classes: tuple[tuple[str, int, int], ...]


def unlabelled(runs: Sequence[Run]) -> list[Unlabelled]:
    """Measure the runs without labels; runs of one method, dataset, model and seed are told apart by their folders.

    Raises:
        UserError: If predictions are missing or damaged.
    """
    mine = [run for run in runs if not run.labelled]
    seen = Counter(map(_key, mine))
    return [_measure(run, _key(run)[0] + (f" ({run.folder})" if seen[_key(run)] > 1 else "")) for run in mine]


def _measure(run: Run, label: str) -> Unlabelled:
    found = run.predictions
    before, after = (
        Answers(
            confidence=_mean(found.confidence[when]),
            entropy=_mean(found.entropy[when]),
            classes=len(np.unique(found.prediction[when][found.prediction[when] >= 0])),
        )
        for when in WHEN
    )
    changed = _mean(found.prediction["before"] != found.prediction["after"])
    return Unlabelled(run, label, changed, before, after, _classes(run))


def _key(run: Run) -> tuple[str, str, str, int]:
    return run.name or run.method, run.dataset, run.backbone, run.seed


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _classes(run: Run) -> tuple[tuple[str, int, int], ...]:
    names = run.predictions.names
    counts = {when: Counter(run.predictions.prediction[when].tolist()) for when in WHEN}
    numbers = sorted(
        counts["before"].keys() | counts["after"].keys(),
        key=lambda number: (-counts["after"][number], -counts["before"][number], number),
    )
    return tuple((class_name(names, number), counts["before"][number], counts["after"][number]) for number in numbers)


def unlabelled_tables(found: Sequence[Unlabelled]) -> list[Table]:
    """A table of the runs and one of the classes that they predict; no table without runs."""
    if not found:
        return []
    columns: tuple[str, ...] = ("Method", "Dataset", "Model", "Seed", "Images", "Changed %")
    columns += tuple(f"{name} {when}" for name in ("Confidence %", "Entropy", "Classes") for when in WHEN)
    columns += ("Not adapted", "Unreadable", "Images/s")
    rows = tuple(
        (
            Cell(text=each.label),
            Cell(text=dataset_title(each.run.dataset)),
            Cell(text=each.run.backbone),
            Cell(text=str(each.run.seed)),
            Cell(value=each.run.n, digits=0, grouped=True),
            Cell(value=100 * each.changed),
            *(Cell(value=100 * side.confidence) for side in (each.before, each.after)),
            *(Cell(value=side.entropy, digits=4) for side in (each.before, each.after)),
            *(Cell(value=side.classes, digits=0, grouped=True) for side in (each.before, each.after)),
            Cell(value=each.run.fallbacks, digits=0, grouped=True),
            Cell(value=each.run.skipped, digits=0, grouped=True),
            speed_cell(each.run.images_per_second),
        )
        for each in found
    )
    notes = (
        "No accuracy, as the images have no labels. Changed: predictions that adaptation changed. Confidence and "
        "entropy (nats) are means over the images; classes: how many are predicted.",
    )
    first = Table("Runs without labels", columns, rows, notes, kind="unlabelled")
    counts = tuple(
        (
            Cell(text=each.label),
            Cell(text=dataset_title(each.run.dataset)),
            Cell(text=name),
            Cell(value=before, digits=0, grouped=True),
            Cell(value=after, digits=0, grouped=True),
        )
        for each in found
        for name, before, after in each.classes[:_LISTED]
    )
    columns = ("Method", "Dataset", "Class", "Images before", "Images after")
    notes = (f"The {_LISTED} classes of each run that are predicted most often after adaptation.",)
    return [first, Table("Classes predicted", columns, counts, notes, kind="unlabelled")]
