"""Runs without labels: which classes they predict, with which confidence, and what adaptation changed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lorattt.report.layout import dataset_title
from lorattt.report.predictions import WHEN, Predictions, class_name
from lorattt.report.runs import Run
from lorattt.report.tables import Cell, Table, cells, speed_cell

_LISTED: Final = 10


@dataclass(frozen=True)
class Unlabelled:
    """A run without labels.

    Its measures are ``changed``, the share of the images whose prediction adaptation changed; ``before`` and ``after``,
    each mean ``confidence``, mean ``entropy`` in nats (NaN where one is not known) and the number of ``classes``
    predicted; ``classes``, name, images before and images after, by falling number after.
    """

    run: Run
    label: str  # of its rows
    measures: dict[str, Any]


def unlabelled(runs: Sequence[Run]) -> list[Unlabelled]:
    """Measure the runs without labels; labels have folders where method, dataset, model and seed are equal."""
    mine = [run for run in runs if not run.labelled]
    seen = Counter(map(_key, mine))
    return [
        Unlabelled(run, _key(run)[0] + (f" ({run.folder})" if seen[_key(run)] > 1 else ""), _measure(run.predictions))
        for run in mine
    ]


def _key(run: Run) -> tuple[str, str, str, int]:
    return run.name or run.method, run.dataset, run.backbone, run.seed


def _measure(found: Predictions) -> dict[str, Any]:
    counts = {when: Counter(found.prediction[when].tolist()) for when in WHEN}
    before, after = counts.values()
    numbers = sorted(before | after, key=lambda number: (-after[number], -before[number], number))
    sides = {}
    for when in WHEN:
        sure, unsure = _mean(found.confidence[when]), _mean(found.entropy[when])
        sides[when] = {"confidence": sure, "entropy": unsure, "classes": sum(each >= 0 for each in counts[when])}
    classes = [(class_name(found.names, number), before[number], after[number]) for number in numbers]
    return {"changed": _mean(found.prediction["before"] != found.prediction["after"]), **sides, "classes": classes}


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def unlabelled_tables(found: Sequence[Unlabelled]) -> list[Table]:
    """A table of the runs and one of the classes that they predict; no table without runs."""
    if not found:
        return []
    columns = ["Method", "Dataset", "Model", "Seed", "Images", "Changed %"]
    columns += [f"{name} {when}" for name in ("Confidence %", "Entropy", "Classes") for when in WHEN]
    columns += ["Not adapted", "Unreadable", "Images/s"]
    rows, counts = [], []
    for each in found:
        run, measures = each.run, each.measures
        sides = [measures[when] for when in WHEN]
        first = cells(each.label, dataset_title(run.dataset), run.backbone, str(run.seed), run.n)
        first += cells(100 * measures["changed"], *(100 * side["confidence"] for side in sides))
        first += cells(*(Cell(value=side["entropy"], digits=4) for side in sides), *(side["classes"] for side in sides))
        rows.append(first + cells(run.fallbacks, run.skipped, speed_cell(run.images_per_second)))
        counts += [cells(each.label, dataset_title(run.dataset), *listed) for listed in measures["classes"][:_LISTED]]
    note = (
        "No accuracy, as the images have no labels. Changed: predictions that adaptation changed. Confidence and "
        "entropy (nats) are means over the images; classes: how many are predicted."
    )
    most = f"The {_LISTED} classes of each run that are predicted most often after adaptation."
    columns_of_classes = ("Method", "Dataset", "Class", "Images before", "Images after")
    return [
        Table("Runs without labels", tuple(columns), rows, [note], kind="unlabelled"),
        Table("Classes predicted", columns_of_classes, counts, [most], kind="unlabelled"),
    ]
