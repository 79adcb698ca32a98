"""Measures against plain loops, tests against published values and exact sums."""

import math
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from run_files import write_run

from lorattt.errors import UserError
from lorattt.report import compare, measures
from lorattt.report.build import build_report
from lorattt.report.layout import layouts


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    confidence = random.uniform(0, 1, 300).round(6)
    confidence[:3] = (0.0, 1.0, 0.2)  # edges of bins
    return random.random(300) < confidence, confidence, random.integers(0, 7, 300)


def test_mean_per_class(sample: tuple[np.ndarray, ...]) -> None:
    right, _, label = sample
    shares = [sum(r for r, c in zip(right, label, strict=True) if c == k) / list(label).count(k) for k in range(7)]
    assert measures.mean_per_class(right, label) == pytest.approx(sum(map(float, shares)) / 7)
    # A class without images has no share: it does not count as one of 0.
    assert measures.mean_per_class(np.array([True, False]), np.array([0, 9])) == 0.5


@pytest.mark.parametrize("bins", [0, -1, 10**9])
def test_bins_that_make_no_sense(tmp_path: Path, bins: int) -> None:
    with pytest.raises(UserError, match=f"--bins {bins}: must be from 1"):
        build_report([str(write_run(tmp_path))], bins=bins)


def test_brier() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    label = [0, 1]
    complete = np.stack([p[[0, 1], label], (p**2).sum(1)], axis=1)
    expected = ((0.3**2 + 0.2**2 + 0.1**2) + (0.1**2 + 0.9**2 + 0.8**2)) / 2
    assert measures.brier(complete) == pytest.approx(expected)


def test_area_under_risk_and_coverage() -> None:
    right = np.array([True, False, True, False])
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    assert measures.risk_coverage_area(right, confidence) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    # Of equal confidences: the mean over all orders of the rows.
    confidence = np.array([0.9, 0.5, 0.5, 0.5])
    orders = []
    for order in permutations((1, 2, 3)):
        wrong = np.cumsum([not right[i] for i in (0, *order)])
        orders.append(float((wrong / np.arange(1, 5)).mean()))
    assert measures.risk_coverage_area(right, confidence) == pytest.approx(sum(orders) / 6)
    shuffled = measures.risk_coverage_area(right[[3, 1, 0, 2]], confidence[[3, 1, 0, 2]])
    assert shuffled == pytest.approx(sum(orders) / 6)


def test_nothing_and_what_is_not_finite() -> None:
    none, right = np.array([], dtype=bool), np.array([True, False])
    assert math.isnan(measures.mean_per_class(none, np.array([], dtype=np.int64)))
    assert math.isnan(measures.risk_coverage_area(none, np.array([])))
    assert math.isnan(measures.risk_coverage_area(right, np.array([0.5, np.nan])))


def test_over_seeds() -> None:
    assert measures.mean_and_deviation([2.0, 4.0, 9.0]) == (5.0, pytest.approx(math.sqrt(13.0)))
    assert measures.mean_and_deviation([7.0]) == (7.0, None)
    for other in (math.nan, math.inf):
        mean, deviation = measures.mean_and_deviation([1.0, other])
        assert (mean, deviation) == (pytest.approx(other, nan_ok=True), pytest.approx(math.nan, nan_ok=True))


@pytest.mark.parametrize(("base", "new", "mean"), [(60.0, 40.0, 48.0), (0.0, 0.0, 0.0), (50.0, 0.0, 0.0)])
def test_harmonic_mean(base: float, new: float, mean: float) -> None:
    (layout,) = layouts({"mine-base": None, "mine-new": None})
    value = dict(layout.columns)["H"].value({"mine-base": {0: base}, "mine-new": {0: new}})
    assert value is not None
    assert value.mean == pytest.approx(mean)


def test_bootstrap_is_that_of_drawing_images() -> None:
    """The multinomial draw against drawing image by image, and against the interval of a normal mean."""
    random = np.random.default_rng(0)
    differences = 100.0 * random.choice([-1, 0, 1], 400, p=[0.1, 0.7, 0.2])
    low, high = compare.bootstrap_interval(differences)
    drawn = differences[random.integers(0, 400, (10_000, 400))].mean(1)
    expected = np.quantile(drawn, [0.025, 0.975])
    width = float(expected[1] - expected[0])
    np.testing.assert_allclose([low, high], expected, atol=0.05 * width)
    half = 1.959964 * float(differences.std()) / 20
    np.testing.assert_allclose([low, high], differences.mean() + np.array([-half, half]), atol=0.05 * width)
    assert compare.bootstrap_interval(differences) == (low, high)
    assert compare.bootstrap_interval(differences[::-1]) == (low, high)
    assert compare.bootstrap_interval(differences, seed=1) != (low, high)


def test_bootstrap_covers_the_truth() -> None:
    """Of 300 samples with a true difference of 5 points, some 95 % have it in their interval."""
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        low, high = compare.bootstrap_interval(
            100.0 * random.choice([-1, 0, 1], 300, p=[0.1, 0.75, 0.15]), resamples=1000
        )
        inside += low <= 5 <= high
    assert 0.91 <= inside / 300 <= 0.99


def test_bootstrap_of_no_difference() -> None:
    assert compare.bootstrap_interval(np.zeros(10)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),
        (8, 2, 0.109375),
        (2, 8, 0.109375),
        (6, 18, 380_102 / 2**24),  # the last that is exact: 2 (1 + 24 + 276 + 2024 + 10626 + 42504 + 134596)
    ],
)
def test_mcnemar_exact(won: int, lost: int, p: float) -> None:
    found = compare.mcnemar(won, lost)
    assert (found.won, found.lost, found.exact) == (won, lost, True)
    assert found.p == pytest.approx(p, rel=1e-5)


def test_mcnemar_exact_is_the_binomial_tail() -> None:
    for won in range(13):
        for lost in range(12):
            n = won + lost
            tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(n + 1) if abs(2 * k - n) >= abs(won - lost))
            assert compare.mcnemar(won, lost).p == pytest.approx(float(tail))


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [
        (121, 59, 5.4501e-06),  # chi-square 20.672 with one degree of freedom
        (10, 15, 0.4237108),  # 0.64
        (13, 13, 1.0),  # the correction does not go below 0
        (20, 35, 0.0590582),  # 3.563636
    ],
)
def test_mcnemar_with_many_pairs(won: int, lost: int, p: float) -> None:
    found = compare.mcnemar(won, lost)
    assert not found.exact
    assert found.p == pytest.approx(p, rel=1e-3)
