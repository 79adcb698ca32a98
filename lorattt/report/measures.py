"""All measures of a run, from its predictions."""

from dataclasses import dataclass
from typing import Final

from lorattt.report import statistics
from lorattt.report.runs import Run

WHEN: Final = ("before", "after")


@dataclass(frozen=True)
class Measures:
    """How good predictions are, before or after adaptation; fractions in [0, 1], NaN where a confidence is not finite.

    Attributes:
        top1: Share of right predictions.
        per_class: The same, as the mean over classes.
        ece: Expected calibration error with the report's bins.
        nll: Negative log-likelihood in nats; None where neither the files of predictions nor the results tell it.
        nll_from: Which file it is from; None if there is none.
        brier: Brier's score, 0 to 2; None where not all classes' probabilities are listed.
        aurc: Area under the risk-coverage curve.
    """

    top1: float
    per_class: float
    ece: float
    nll: float | None
    nll_from: str | None
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
        nll, nll_from = run.measures.get(f"nll_{when}"), "results.json"
        listed = run.label_probabilities(when)
        if listed is not None and len(listed) == len(right):
            nll, nll_from = statistics.log_likelihood(listed), "predictions.jsonl"
        complete = run.complete_probabilities(when)
        found[when] = Measures(
            top1=statistics.accuracy(right),
            per_class=statistics.mean_per_class(right, label),
            ece=statistics.calibration_error(right, confidence, bins),
            nll=nll,
            nll_from=None if nll is None else nll_from,
            brier=None if complete is None or len(complete) != len(right) else statistics.brier(complete),
            aurc=statistics.risk_coverage_area(right, confidence),
        )
    return found
