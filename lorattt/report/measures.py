"""Measures of predictions: of a run, and of arrays."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorattt.calibration import calibration_error
from lorattt.report.predictions import WHEN, complete_probabilities
from lorattt.report.runs import RANKED_FILE, Run

Right = NDArray[np.bool_]
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """How good predictions are, before or after adaptation: fractions, NaN where a confidence is not finite."""

    top1: float
    per_class: float  # mean over classes of the share of right predictions
    ece: float  # expected calibration error
    nll: float | None  # negative log-likelihood in nats, as results.json has it; None where it has none
    brier: float | None  # Brier score, 0 to 2; None where not all classes' probabilities are listed
    aurc: float  # area under the risk-coverage curve


def measure(run: Run, bins: int) -> dict[str, Measures]:
    """Measures of a run with labels, ``before`` and ``after``; ``bins`` is of the expected calibration error."""
    predictions = run.predictions
    known = predictions.known
    complete = complete_probabilities(run.folder / RANKED_FILE)
    found = {}
    for when in WHEN:
        right, confidence = predictions.right(when), predictions.confidence[when][known]
        of_label = complete.get(when)
        found[when] = Measures(
            top1=predictions.top1(when),
            per_class=mean_per_class(right, predictions.label[known]),
            ece=calibration_error(right, confidence, bins),
            nll=run.measures.get(f"nll_{when}"),
            brier=None if of_label is None or len(of_label) != len(right) else brier(of_label),
            aurc=risk_coverage_area(right, confidence),
        )
    return found


def mean_per_class(right: Right, label: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in the ``(N,)`` known labels of the share of their images that are right."""
    if not len(right):
        return math.nan
    counts = np.bincount(label)
    hits = np.bincount(label, weights=right)
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def brier(complete: Shares) -> float:
    """Brier score, 0 to 2, of ``(N, 2)``: the label's probability and the sum of the squares of all."""
    return float((complete[:, 1] - 2 * complete[:, 0] + 1).mean()) if len(complete) else math.nan


def risk_coverage_area(right: Right, confidence: Shares) -> float:
    """Area under the risk-coverage curve (AURC): the mean error of the k most confident images, over k = 1 to N.

    Images of equal confidence count as in the mean over all their orders, so the order of the ``(N,)`` rows does not
    matter.
    """
    if not len(right) or not np.isfinite(confidence).all():
        return math.nan
    return float((np.cumsum(by_confidence(~right, confidence)) / np.arange(1, len(right) + 1)).mean())


def by_confidence(values: Right, confidence: Shares) -> Shares:
    """``(N,)`` values by falling, finite confidence; the mean over all orders where confidences are equal."""
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(place.reshape(-1), weights=values) / counts, counts)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (of N - 1), which is None for one value and NaN where one is not finite."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    # Of NaN, statistics.stdev raises.
    return mean, statistics.stdev(values) if math.isfinite(mean) else math.nan
