"""Statistics and tables of :mod:`benchmarks.behaviour`: paired differences, their intervals, and verdicts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorattt.calibration import calibration_error
from lorattt.methods.metrics import half_interval

TOP1, ECE, COSINE = "top-1", "ECE", "cosine of gradients"
HIGHER: Final = (TOP1, COSINE)
"""Measures of which a higher value is better; of all others a lower one."""
RESAMPLES: Final = 2_000


class Answers(NamedTuple):
    """A method's answers to the N images of one seed."""

    right: NDArray[np.bool_]  # (N,)
    confidence: NDArray[np.float64]  # (N,)
    nll: float  # mean negative log-likelihood in nats
    domains: Sequence[str]  # of the N images


def compare(measure: str, method: Sequence[Any], control: Sequence[Any]) -> dict[str, Any]:
    """Compare a method with its control on the same images of each seed, and pool the seeds.

    Returns both values, their difference (method less control) with a 95 % interval over images, each seed's
    difference, and a verdict. Top-1 and ECE are in percent.

    Args:
        measure: What is compared.
        method: Of each seed, :class:`Answers` for top-1 and ECE, else an array of values ``(N,)``.
        control: Likewise.
    """
    value: Callable[[Any], float] = _ece if measure == ECE else np.mean
    pairs = [[_prepared(measure, each) for each in side] for side in (method, control)]
    if any(len(one) != len(other) for one, other in zip(*pairs, strict=True)):
        raise ValueError(f"{measure}: the two are not of the same images")
    by_seed = [float(value(one) - value(other)) for one, other in zip(*pairs, strict=True)]
    ours, theirs = (np.concatenate(side) for side in pairs)
    difference = float(value(ours) - value(theirs))
    if measure == ECE:
        low, high = resampled(ours, theirs)
    else:
        half = half_interval((ours - theirs).tolist())
        low, high = difference - half, difference + half
    return {
        "measure": measure,
        "better": "higher" if measure in HIGHER else "lower",
        "pairs": len(ours),
        "values": [float(value(ours)), float(value(theirs))],
        "difference": difference,
        "low": low,
        "high": high,
        "by_seed": by_seed,
        "verdict": verdict(low, high, higher=measure in HIGHER),
    }


def _prepared(measure: str, values: Any) -> NDArray[np.float64]:
    """``(N,)`` values of which the mean is taken; for ECE ``(N, 2)``, right or not and confidence."""
    if measure == ECE:
        values = np.stack([values.right, values.confidence], axis=1)
    elif measure == TOP1:
        values = 100.0 * values.right
    prepared: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return prepared


def _ece(rows: NDArray[np.float64]) -> float:
    return 100 * calibration_error(rows[:, 0] > 0, rows[:, 1])


def resampled(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the difference of two ECEs in points, both of the same drawn images.

    Rows ``(N, 2)`` are of the same images: right or not, and confidence.
    """
    drawn = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
    low, high = np.quantile([_ece(ours[some]) - _ece(theirs[some]) for some in drawn], (0.025, 0.975))
    return float(low), float(high)


def verdict(low: float, high: float, *, higher: bool) -> str:
    """``shown`` or ``opposite`` if the interval lies wholly on one side of 0, else ``not shown``."""
    if not higher:
        low, high = -high, -low
    return "shown" if low > 0 else "opposite" if high < 0 else "not shown"


def overview(answers: Mapping[str, Sequence[Answers]]) -> dict[str, Any]:
    """Of each method: top-1, ECE and NLL, the gain over zero-shot, and top-1 by domain; seeds are pooled."""
    rows = {}
    for name, seeds in answers.items():
        pooled = np.concatenate([_prepared(ECE, each) for each in seeds])
        domains = np.concatenate([np.array(each.domains) for each in seeds])
        rows[name] = {
            "top1": 100 * float(pooled[:, 0].mean()),
            "ece": _ece(pooled),
            "nll": float(np.average([each.nll for each in seeds], weights=[len(each.right) for each in seeds])),
            "gain": compare(TOP1, seeds, answers["zero-shot"]),
            "domains": {str(each): 100 * float(pooled[domains == each, 0].mean()) for each in np.unique(domains)},
        }
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """The report as three tables: effects, methods, domains."""
    seeds = ", ".join(map(str, report["seeds"]))
    effects = [
        [
            f"`{row['effect']}`",
            f"{row['method']} vs {row['control']}",
            row["images"],
            f"{row['measure']} ({row['better']})",
            " vs ".join(_number(value, row["measure"]) for value in row["values"]),
            f"{_signed(row['difference'], row['measure'])} ({_interval(row)})",
            ", ".join(_signed(each, row["measure"]) for each in row["by_seed"]),
            f"**{row['verdict']}**" if row["verdict"] == "shown" else row["verdict"],
        ]
        for row in report["effects"]
    ]
    methods = [
        [
            name,
            f"{row['top1']:.1f}",
            "" if name == "zero-shot" else f"{row['gain']['difference']:+.1f} ({_interval(row['gain'])})",
            f"{row['ece']:.1f}",
            f"{row['nll']:.3f}",
        ]
        for name, row in report["methods"].items()
    ]
    domains = list(next(iter(report["methods"].values()))["domains"])
    shares = [[name, *(f"{row['domains'][each]:.1f}" for each in domains)] for name, row in report["methods"].items()]
    titles = ["effect", "what", "images", "measure (better)", "values", "difference (95 %)", "by seed", "verdict"]
    each = f"{report['images']} images of split {report['split']} of each kind and seed, seeds {seeds}"
    return "\n\n".join(
        [
            f"Every effect against its control, {each}; top-1 and ECE in percent:",
            _table(titles, effects),
            f"Shifted domains, {each}; top-1 and ECE in percent, NLL in nats:",
            _table(["method", "top-1", "gain over zero-shot (95 %)", "ECE", "NLL"], methods),
            "Top-1 by domain:",
            _table(["method", *domains], shares),
        ]
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float, measure: str) -> str:
    return f"{value:.1f}" if measure in (TOP1, ECE) else f"{value:.4f}"


def _signed(value: float, measure: str) -> str:
    return ("-" if value < 0 else "+") + _number(abs(value), measure)


def _interval(row: Mapping[str, Any]) -> str:
    return " to ".join(_signed(row[end], row["measure"]) for end in ("low", "high"))
