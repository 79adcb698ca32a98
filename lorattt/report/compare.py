"""Two methods on the same images: the difference, its bootstrap interval, and McNemar's test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lorattt.errors import UserError
from lorattt.report.rows import Row
from lorattt.report.runs import Run

BEFORE: Final = "before adaptation"
ALL_PAIRS_UP_TO: Final = 6  # so many methods are all compared with each other unless a baseline is named
RESAMPLES: Final = 10_000
EXACT_BELOW: Final = 25
"""With fewer discordant pairs, McNemar's test is by the binomial distribution, else by chi-square."""


def bootstrap_interval(
    differences: NDArray[np.float64], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``(N,)`` values of images, by drawing images with replacement.

    How often a resample has each of the few distinct values is multinomial, so these counts are drawn at once; the
    distribution is the same as when drawing image by image.
    """
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(differences), counts / counts.sum(), size=resamples)
    means = drawn @ values / len(differences)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two methods on the same images."""

    won: int  # images that the first method alone has right
    lost: int  # images that the second method alone has right
    p: float  # two-sided probability of a difference at least as large if both were equally good
    exact: bool  # by the binomial distribution, else by chi-square with continuity correction


def mcnemar(won: int, lost: int) -> McNemar:
    """McNemar's test, from the numbers of images that one method alone has right."""
    pairs = won + lost
    if pairs < EXACT_BELOW:
        tail = sum(math.comb(pairs, k) for k in range(min(won, lost) + 1)) / 2**pairs
        return McNemar(won, lost, min(1.0, 2 * tail), exact=True)
    statistic = max(abs(won - lost) - 1, 0) ** 2 / pairs
    # One degree of freedom: the square of a standard normal number.
    return McNemar(won, lost, math.erfc(math.sqrt(statistic / 2)), exact=False)


@dataclass(frozen=True)
class Comparison:
    """The first method's accuracy less the second's, on one dataset."""

    dataset: str
    backbone: str
    first: str  # label of the first row
    second: str  # label of the second, or BEFORE for the first method's own predictions before adaptation
    images: int  # number of labelled images
    difference: float  # in points, mean over the seeds
    low: float  # lower end of its 95 % bootstrap interval over images
    high: float  # upper end
    tests: tuple[McNemar, ...]  # of each pair of runs, by rising seed of the first method (of the second if it has one)


def compare(rows: Sequence[Row], baseline: str | None = None) -> tuple[list[Comparison], list[str]]:
    """Compare rows of the same model, whose runs of a dataset are of the same images; also returns notes.

    Without a baseline, each method is compared with its own predictions before adaptation, and up to
    :data:`ALL_PAIRS_UP_TO` methods with each other. With one (label or method of a row, or ``before``), each is
    compared with it.
    """
    named = {name for row in rows for name in (row.label, row.method)}
    if baseline is not None and baseline not in named | {"before", BEFORE}:
        raise UserError(f"--baseline {baseline}: no run is of it; there are {', '.join(sorted(named))}, and before")
    found: list[Comparison] = []
    notes: list[str] = []
    for backbone in dict.fromkeys(row.backbone for row in rows):
        mine = [row for row in rows if row.backbone == backbone]
        if baseline in (None, "before", BEFORE):
            found += [each for row in mine for each in _with_before(row)]
        bases = [row for row in mine if baseline == row.label] or [row for row in mine if baseline == row.method]
        pairs = [(row, base) for base in bases for row in mine if row not in bases]
        if baseline is None and len(mine) <= ALL_PAIRS_UP_TO:
            pairs = [(other, one) for one, other in combinations(mine, 2)]
        elif baseline is None:
            advice = "name one with --baseline to compare the others with it."
            notes.append(f"More than {ALL_PAIRS_UP_TO} methods: {advice}")
        for first, second in pairs:
            for dataset in (name for name in first.runs if name in second.runs):
                if matched := _matched(first.runs[dataset], second.runs[dataset]):
                    found.append(_comparison(dataset, first, second.label, matched))
                else:
                    notes.append(f"{first.label} and {second.label} have no common seed on {dataset}: not compared.")
    if len(found) > 1:
        notes.append(f"The p values are not corrected for the {len(found)} comparisons.")
    return found, notes


def _with_before(row: Row) -> list[Comparison]:
    found = [
        _comparison(dataset, row, BEFORE, [(seeds[seed], None) for seed in sorted(seeds)])
        for dataset, seeds in row.runs.items()
    ]
    # Zero-shot changes nothing: no line for it.
    return [each for each in found if row.method != "zero_shot" or any(test.won or test.lost for test in each.tests)]


def _matched(first: dict[int, Run], second: dict[int, Run]) -> list[tuple[Run, Run | None]]:
    """Pairs of runs with the same seed; a method with one run is paired with each of the other's."""
    if len(first) == 1:
        return [(next(iter(first.values())), second[seed]) for seed in sorted(second)]
    if len(second) == 1:
        return [(first[seed], next(iter(second.values()))) for seed in sorted(first)]
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def _comparison(dataset: str, first: Row, second: str, matched: Sequence[tuple[Run, Run | None]]) -> Comparison:
    """The mean over pairs of runs; None stands for the first run's predictions before adaptation."""
    pairs = []
    for one, other in matched:
        theirs = one.predictions.right("before") if other is None else other.predictions.right("after")
        pairs.append((one.predictions.right("after"), theirs))
    total: NDArray[np.int64] = np.sum([one.astype(np.int64) - other for one, other in pairs], axis=0)
    difference = 100 * total / len(pairs)
    low, high = bootstrap_interval(difference)
    return Comparison(
        dataset=dataset,
        backbone=first.backbone,
        first=first.label,
        second=second,
        images=len(difference),
        difference=float(difference.mean()),
        low=low,
        high=high,
        tests=tuple(mcnemar(int((one & ~other).sum()), int((other & ~one).sum())) for one, other in pairs),
    )
