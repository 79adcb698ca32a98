"""The calibration error against exact fractions: bins, their borders, and any order of the images."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lorattt.calibration import ECE_BINS, UNIT, bin_of, calibration_error


def by_fractions(right: np.ndarray, confidence: np.ndarray, bins: int) -> float:
    """Bin by bin, (low, high], the first with 0, of confidences as text has them."""
    sure = [Fraction(f"{value:.6f}") for value in confidence]
    total = Fraction(0)
    for number in range(bins):
        low, high = Fraction(number, bins), Fraction(number + 1, bins)
        inside = [i for i, value in enumerate(sure) if low < value <= high or (number == value == 0)]
        total += abs(sum((sure[i] - int(right[i]) for i in inside), Fraction(0)))
    return float(total / len(sure))


@pytest.mark.parametrize("bins", [1, 3, 15, ECE_BINS, 10_000])
def test_against_fractions(bins: int) -> None:
    random = np.random.default_rng(bins)
    borders = [number / ECE_BINS for number in range(ECE_BINS + 1)] + [number / 15 for number in range(16)]
    confidence = np.concatenate([random.random(200), borders, np.float32(borders), [0.0, 1.0, 1e-9, 1 - 1e-9]])
    right = random.random(len(confidence)) < confidence
    found = calibration_error(right, confidence, bins)
    assert found == pytest.approx(by_fractions(right, confidence, bins), abs=1e-15)
    order = random.permutation(len(confidence))
    assert calibration_error(right[order], confidence[order], bins) == found, "to the last digit in any order"


def test_a_border_belongs_to_the_bin_below() -> None:
    assert bin_of(np.array([0, 1, 50_000, 50_001, 550_000, 550_001, UNIT])).tolist() == [0, 0, 0, 1, 10, 11, 19]


def test_tensors_have_the_bins_of_arrays() -> None:
    values = torch.arange(0, UNIT + 1, 997)
    for bins in (7, ECE_BINS):
        assert bin_of(values, bins).tolist() == bin_of(values.numpy(), bins).tolist()


def test_nothing_and_what_is_not_finite() -> None:
    assert math.isnan(calibration_error(np.zeros(0, dtype=bool), np.zeros(0)))
    assert math.isnan(calibration_error(np.array([True, False]), np.array([0.5, np.nan])))
