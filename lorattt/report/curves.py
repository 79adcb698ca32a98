"""The numbers of the plots: reliability, coverage, classes won and lost, accuracy against a setting."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorattt.calibration import bin_of, millionths
from lorattt.report.layout import Value, mean_over
from lorattt.report.measures import by_confidence
from lorattt.report.predictions import WHEN, class_name
from lorattt.report.rows import Row, as_text, settings

Values = NDArray[np.float64]
_POINTS: Final = 200
_FEWEST: Final = 10  # an accuracy over fewer images is not shown


def pooled(row: Row, datasets: Iterable[str], when: str) -> tuple[NDArray[np.bool_], Values]:
    """Right or not, and confidence, of the labelled images of all runs on these datasets, where it is finite."""
    runs = [run for name in datasets for run in row.runs.get(name, {}).values()]
    right = np.concatenate([np.zeros(0, dtype=np.bool_), *(run.predictions.right(when) for run in runs)])
    found = [run.predictions.confidence[when][run.predictions.known] for run in runs]
    confidence = np.concatenate([np.zeros(0), *found])
    finite = np.isfinite(confidence)
    return right[finite], confidence[finite]


def reliability(right: NDArray[np.bool_], confidence: Values, bins: int) -> tuple[Values, Values, Values]:
    """Mean confidence, accuracy and share of the ``(N,)`` images of each bin of the calibration error that has any.

    ``(B,)`` each, by rising confidence.
    """
    place = bin_of(millionths(confidence), bins)
    counts = np.bincount(place, minlength=bins)
    there = counts > 0
    means = [np.bincount(place, weights=each, minlength=bins)[there] / counts[there] for each in (confidence, right)]
    return means[0], means[1], counts[there] / max(len(right), 1)


def coverage(right: NDArray[np.bool_], confidence: Values) -> tuple[Values, Values]:
    """Coverage and accuracy, ``(P,)`` each, of the ``(N,)`` images that are answered, the most confident first.

    At most 200 points, from 2 % of the images on and at least ten; the last is all of them. Images of equal confidence
    count as in the mean over all their orders.
    """
    total = np.cumsum(by_confidence(right, confidence))
    number = len(right)
    first = max(min(_FEWEST, number), number // 50)
    taken = np.unique(np.rint(np.linspace(first, number, min(number, _POINTS))).astype(np.int64))
    return taken / number, total[taken - 1] / taken


class Change(NamedTuple):
    """Images of a class, or of a pair of classes, that became right (``won``) and that became wrong (``lost``)."""

    name: str
    won: int
    lost: int


def changes(row: Row) -> tuple[list[Change], list[Change]]:
    """Which classes' images a method won and lost over all of its runs, and which confusions these were.

    Each by falling number of changes, then name. Classes of one name count as one.
    """
    classes: dict[str, Counter[str]] = {"won": Counter(), "lost": Counter()}
    pairs: dict[str, Counter[str]] = {"won": Counter(), "lost": Counter()}
    for run in row.all_runs():
        predictions, names = run.predictions, run.top_k.names
        known = np.flatnonzero(predictions.known)
        before, after = predictions.right("before"), predictions.right("after")
        sides = (("won", known[after & ~before], "before"), ("lost", known[before & ~after], "after"))
        for kind, chosen, wrong in sides:
            for label, other in zip(predictions.label[chosen], predictions.prediction[wrong][chosen], strict=True):
                name = class_name(names, int(label))
                classes[kind][name] += 1
                pairs[kind][f"{name} \u2192 {class_name(names, int(other))}"] += 1
    return _joined(**classes), _joined(**pairs)


def _joined(won: Counter[str], lost: Counter[str]) -> list[Change]:
    found = [Change(name, won[name], lost[name]) for name in won.keys() | lost.keys()]
    return sorted(found, key=lambda each: (-(each.won + each.lost), each.name))


class SweepCurve(NamedTuple):
    """Accuracy against one setting, all others being equal."""

    key: str  # the setting
    label: str  # the method, with the settings that tell the curve from others
    values: list[float]  # the setting's values, rising
    before: list[float]  # Top-1 in percent before adaptation at each value, mean over datasets and seeds
    after: list[Value]  # the same after it, with the standard deviation over seeds


def sweep_curves(rows: Sequence[Row]) -> list[SweepCurve]:
    """Curves of all numeric settings in which rows of one method differ, by setting and method."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.backbone), []).append(row)
    several = len({backbone for _, backbone in groups}) > 1
    curves = []
    for (method, backbone), mine in groups.items():
        datasets = [name for name in mine[0].runs if all(name in row.runs for row in mine)]
        if len(mine) < 2 or not datasets:
            continue
        stated = [settings(next(iter(row.runs[datasets[0]].values()))) for row in mine]
        differing = [key for key in stated[0] if len({as_text(each.get(key)) for each in stated}) > 1]
        for key in differing:
            if not all(_is_number(each.get(key)) for each in stated):
                continue
            lines: dict[str, dict[float, list[Row]]] = {}
            for row, values in zip(mine, stated, strict=True):
                others = ", ".join(f"{name}={as_text(values.get(name))}" for name in differing if name != key)
                lines.setdefault(others, {}).setdefault(float(values[key]), []).append(row)
            for others, points in lines.items():
                if len(points) > 1 and all(len(same) == 1 for same in points.values()):
                    name = f"{method}, {backbone}" if several else method
                    label = f"{name} ({others})" if others else name
                    places = sorted(points)
                    before, after = (
                        [mean_over(datasets, points[value][0].top1(when)) for value in places] for when in WHEN
                    )
                    curves.append(SweepCurve(key, label, places, [each.mean for each in before], after))
    return sorted(curves, key=lambda curve: (curve.key, curve.label))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
