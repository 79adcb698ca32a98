"""The numbers of the plots: reliability, coverage, classes won and lost, accuracy against a setting."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorattt.calibration import bin_of, millionths
from lorattt.report.measures import by_confidence, mean_and_deviation
from lorattt.report.rows import Row, as_text, settings
from lorattt.report.tables import Measured
from lorattt.report.topk import TopK, class_name

Values = NDArray[np.float64]
_POINTS: Final = 200
_FEWEST: Final = 10  # an accuracy over fewer images is not shown


def reliability(right: NDArray[np.bool_], confidence: Values, bins: int) -> tuple[Values, Values, Values]:
    """Confidence against accuracy in the bins of the calibration error, empty ones left out.

    Args:
        right: ``(N,)``.
        confidence: ``(N,)``, finite.
        bins: How many.

    Returns:
        Mean confidence, accuracy and share of the images, ``(B,)`` each, by rising confidence.
    """
    place = bin_of(millionths(confidence), bins)
    counts = np.bincount(place, minlength=bins)
    there = counts > 0
    means = [np.bincount(place, weights=each, minlength=bins)[there] / counts[there] for each in (confidence, right)]
    return means[0], means[1], counts[there] / max(len(right), 1)


def coverage(right: NDArray[np.bool_], confidence: Values) -> tuple[Values, Values]:
    """Accuracy of the most confident images, against how many of them are answered.

    Images of equal confidence count as in the mean over all their orders.

    Args:
        right: ``(N,)``, N at least 1.
        confidence: ``(N,)``, finite.

    Returns:
        Coverage and accuracy, ``(P,)`` each, at most 200 points, from 2 % of the images on and at least ten; the last
        is all of them.
    """
    total = np.cumsum(by_confidence(right, confidence))
    number = len(right)
    first = max(min(_FEWEST, number), number // 50)
    taken = np.unique(np.rint(np.linspace(first, number, min(number, _POINTS))).astype(np.int64))
    return taken / number, total[taken - 1] / taken


@dataclass(frozen=True)
class Change:
    """Images that became right and that became wrong.

    Attributes:
        name: Of a class, or of a pair of them.
        won: Wrong before, right after.
        lost: Right before, wrong after.
    """

    name: str
    won: int
    lost: int


def changes(row: Row, top_k: Mapping[int, TopK]) -> tuple[list[Change], list[Change]]:
    """Which classes' images a method won and lost, over all of its runs, and which confusions these were.

    Args:
        row: The method.
        top_k: Of its runs, by their identities; classes of one name count as one.

    Returns:
        Classes, and pairs "class, taken for another", each by falling number of changes, then name.
    """
    won: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    fixed: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for run in row.all_runs():
        predictions, names = run.predictions, top_k[id(run)].names
        known = np.flatnonzero(predictions.known)
        before, after = predictions.right("before"), predictions.right("after")
        for gained, classes, pairs, wrong in ((True, won, fixed, "before"), (False, lost, made, "after")):
            chosen = known[(after & ~before) if gained else (before & ~after)]
            for label, other in zip(predictions.label[chosen], predictions.prediction[wrong][chosen], strict=True):
                name = class_name(names, int(label))
                classes[name] += 1
                pairs[f"{name} \u2192 {class_name(names, int(other))}"] += 1
    return _joined(won, lost), _joined(fixed, made)


def _joined(won: Counter[str], lost: Counter[str]) -> list[Change]:
    found = [Change(name, won[name], lost[name]) for name in won.keys() | lost.keys()]
    return sorted(found, key=lambda each: (-(each.won + each.lost), each.name))


@dataclass(frozen=True)
class SweepCurve:
    """Accuracy against one setting, all others being equal.

    Attributes:
        key: The setting.
        label: The method, with the settings that tell the curve from others.
        values: The setting's values, rising.
        before: Top-1 in percent before adaptation at each value, mean over datasets and seeds.
        after: The same after it.
        deviation: Standard deviation over seeds of ``after``; None where there is one seed.
        datasets: Over which accuracies are means.
    """

    key: str
    label: str
    values: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    deviation: tuple[float | None, ...]
    datasets: tuple[str, ...]


def sweep_curves(found: Measured) -> list[SweepCurve]:
    """Curves of all numeric settings in which rows of one method differ, by setting and method."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found.rows:
        groups.setdefault((row.method, row.backbone), []).append(row)
    several = len({backbone for _, backbone in groups}) > 1
    curves = []
    for (method, backbone), rows in groups.items():
        datasets = [name for name in rows[0].runs if all(name in row.runs for row in rows)]
        if len(rows) < 2 or not datasets:
            continue
        stated = [settings(next(iter(row.runs[datasets[0]].values()))) for row in rows]
        differing = [key for key in stated[0] if len({as_text(each.get(key)) for each in stated}) > 1]
        for key in differing:
            if not all(_is_number(each.get(key)) for each in stated):
                continue
            lines: dict[str, list[tuple[float, Row]]] = {}
            for row, values in zip(rows, stated, strict=True):
                others = ", ".join(f"{name}={as_text(values.get(name))}" for name in differing if name != key)
                lines.setdefault(others, []).append((float(values[key]), row))
            for others, points in lines.items():
                if len({value for value, _ in points}) == len(points) > 1:
                    name = f"{method}, {backbone}" if several else method
                    label = f"{name} ({others})" if others else name
                    curves.append(_curve(key, label, sorted(points, key=lambda each: each[0]), datasets, found))
    return sorted(curves, key=lambda curve: (curve.key, curve.label))


def _curve(
    key: str, label: str, points: Sequence[tuple[float, Row]], datasets: Sequence[str], found: Measured
) -> SweepCurve:
    before, after, deviation = [], [], []
    for _, row in points:
        means = {when: mean_over(row, datasets, found, when) for when in ("before", "after")}
        before.append(means["before"][0])
        after.append(means["after"][0])
        deviation.append(means["after"][1])
    values = tuple(value for value, _ in points)
    return SweepCurve(key, label, values, tuple(before), tuple(after), tuple(deviation), tuple(datasets))


def mean_over(row: Row, datasets: Sequence[str], found: Measured, when: str) -> tuple[float, float | None]:
    """Top-1 in percent, the mean over datasets of the means over seeds; deviation over the seeds that all have."""
    of = {name: {seed: found.top1(run, when) for seed, run in row.runs[name].items()} for name in datasets}
    mean = fmean(fmean(seeds.values()) for seeds in of.values())
    common = sorted(set.intersection(*(set(seeds) for seeds in of.values())))
    each = [fmean(seeds[seed] for seeds in of.values()) for seed in common]
    return mean, mean_and_deviation(each)[1] if each else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
