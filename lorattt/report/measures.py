"""All measures of a run, from its predictions."""

from dataclasses import dataclass
from typing import Final

from lorattt.calibration import calibration_error
from lorattt.report import statistics
from lorattt.report.runs import Run

WHEN: Final = ("before", "after")


@dataclass(frozen=True)
class Measures:
    """How good predictions are, before or after adaptation; fractions in [0, 1], NaN where a confidence is not finite.

    Attributes:
        top1: Share of right predictions.
        per_class: The same, as the mean over classes.
        ece: Expected calibration error with the number of bins that is asked for.
        nll: Negative log-likelihood in nats, as ``results.json`` has it; None where it has none.
        brier: Brier's score, 0 to 2; None where not all classes' probabilities are listed.
        aurc: Area under the risk-coverage curve.
    """

    top1: float
    per_class: float
    ece: float
    nll: float | None
    brier: float | None
    aurc: float


def measure(run: Run, bins: int) -> dict[str, Measures]:
    """Measures ``before`` and ``after``.

    Raises:
        UserError: If a file of the run is missing or damaged.
    """
    predictions = run.predictions
    known = predictions.known
    label = predictions.label[known]
    found = {}
    for when in WHEN:
        right, confidence = predictions.right(when), predictions.confidence[when][known]
        complete = run.complete_probabilities(when)
        found[when] = Measures(
            top1=statistics.accuracy(right),
            per_class=statistics.mean_per_class(right, label),
            ece=calibration_error(right, confidence, bins),
            nll=run.measures.get(f"nll_{when}"),
            brier=None if complete is None or len(complete) != len(right) else statistics.brier(complete),
            aurc=statistics.risk_coverage_area(right, confidence),
        )
    return found
