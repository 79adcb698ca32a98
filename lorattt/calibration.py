"""The expected calibration error: one number of bins and one rule at their borders, for a run and for its report.

Confidences count as ``predictions.csv`` has them, to six digits, in whole numbers of millionths. So the error that a
run writes down is the one that anyone computes from its file, whatever the order of the images; and no rounding moves
a confidence across a border.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ECE_BINS: Final = 20
"""As in C-TPT's program."""
UNIT: Final = 1_000_000


def bin_of(millionths: Any, bins: int = ECE_BINS) -> Any:
    """The bin of each confidence, from 0; of equal width, open below and closed above: (0, 1/20], (1/20, 2/20], ...

    ``millionths`` are whole numbers from 0 to :data:`UNIT`, an int64 array or tensor of any shape.
    """
    return ((millionths * bins + UNIT - 1) // UNIT - 1).clip(0, bins - 1)


def millionths(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Confidences of any shape as ``predictions.csv`` has them, in whole numbers of millionths."""
    return np.rint(confidence * UNIT).astype(np.int64)


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64], bins: int = ECE_BINS) -> float:
    """Mean over ``(N,)`` images of the gap between mean confidence and accuracy in their bin, in [0, 1].

    NaN for no images, or if a confidence is not finite.
    """
    if not len(right) or not np.isfinite(confidence).all():
        return math.nan
    whole = millionths(confidence)
    # Far below 2**53: their sums in float64 are exact.
    gaps = np.bincount(bin_of(whole, bins), weights=whole - UNIT * right.astype(np.int64), minlength=bins)
    return float(np.abs(gaps).sum() / (UNIT * len(right)))
