"""Is a difference between two methods more than chance? Bootstrap intervals and McNemar's test."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
EXACT_BELOW: Final = 25
"""With fewer discordant pairs, McNemar's test is by the binomial distribution, else by chi-square."""


def bootstrap_interval(
    differences: NDArray[np.float64], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean, by drawing images with replacement.

    How often a resample has each of the few distinct values is multinomial, so these counts are drawn at once; the
    distribution is the same as when drawing image by image.

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
