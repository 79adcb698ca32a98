"""Measures of predictions, and what of a difference between two methods may be chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lorattt.errors import UserError

RESAMPLES: Final = 10_000
MOST_BINS: Final = 10_000
EXACT_BELOW: Final = 25
"""So many discordant pairs and more have McNemar's test by the chi-square distribution, fewer by the binomial."""

Right = NDArray[np.bool_]
Shares = NDArray[np.float64]


def accuracy(right: Right) -> float:
    """Share of right predictions, of ``(N,)`` bool; NaN of none."""
    return float(right.mean()) if len(right) else math.nan


def mean_per_class(right: Right, label: NDArray[np.int64]) -> float:
    """Mean over the classes that occur of the share of their images that are right.

    Args:
        right: ``(N,)``.
        label: ``(N,)``, at least 0.
    """
    if not len(right):
        return math.nan
    counts = np.bincount(label)
    hits = np.bincount(label, weights=right)
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def check_bins(bins: int) -> None:
    """Refuse a number of bins.

    Raises:
        UserError: If it is not from 1 to :data:`MOST_BINS`.
    """
    if not 1 <= bins <= MOST_BINS:
        raise UserError(f"--bins {bins}: must be from 1 to {MOST_BINS}")


def brier(complete: Shares) -> float:
    """Brier's score, the mean squared distance of all probabilities from those that say the label alone: 0 to 2.

    Args:
        complete: ``(N, 2)``, the label's probability and the sum of the squares of all.
    """
    return float((complete[:, 1] - 2 * complete[:, 0] + 1).mean()) if len(complete) else math.nan


def risk_coverage_area(right: Right, confidence: Shares) -> float:
    """Area under the risk-coverage curve (AURC): the mean error of the k most confident images, over k = 1 to N.

    Images of equal confidence count as in the mean over all their orders, so the order of the rows does not matter.

    Args:
        right: ``(N,)``.
        confidence: ``(N,)``.
    """
    if not len(right) or not np.isfinite(confidence).all():
        return math.nan
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(place.reshape(-1), weights=~right)
    expected = np.repeat(wrong / counts, counts)
    return float((np.cumsum(expected) / np.arange(1, len(right) + 1)).mean())


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the sample's standard deviation (of N - 1), which one value alone does not have."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def harmonic_mean(first: float, second: float) -> float:
    """``2ab / (a + b)``; 0 of two zeros."""
    return 2 * first * second / (first + second) if first + second else 0.0


def bootstrap_interval(
    differences: Shares, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean, by drawing images with replacement.

    A resample is known by how often it has each value, and those numbers are multinomial: they are drawn at once, for
    differences of right and wrong have few values. The distribution is that of drawing image by image.

    Args:
        differences: ``(N,)`` values of the images, N at least 1.
        level: Share of the resamples' means within the interval.
        resamples: How many.
        seed: Another seed is another set of resamples.
    """
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(differences), counts / counts.sum(), size=resamples)
    means = drawn @ values / len(differences)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two methods on the same images.

    Attributes:
        won: Images that the first method alone has right.
        lost: Images that the second method alone has right.
        p: Two-sided probability of a difference at least as large if both were equally good.
        exact: Whether by the binomial distribution, else by chi-square with continuity correction.
    """

    won: int
    lost: int
    p: float
    exact: bool


def mcnemar(won: int, lost: int) -> McNemar:
    """McNemar's test, from the numbers of images that one method alone has right."""
    pairs = won + lost
    if pairs < EXACT_BELOW:
        tail = sum(math.comb(pairs, k) for k in range(min(won, lost) + 1)) / 2**pairs
        return McNemar(won, lost, min(1.0, 2 * tail), exact=True)
    statistic = max(abs(won - lost) - 1, 0) ** 2 / pairs
    # One degree of freedom: the square of a standard normal number.
    return McNemar(won, lost, math.erfc(math.sqrt(statistic / 2)), exact=False)
