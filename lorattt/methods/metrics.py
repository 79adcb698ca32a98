"""Accuracy, calibration and likelihood of predictions before and after adaptation, exact for any number of devices."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lorattt.calibration import calibration_error
from lorattt.ranking import is_answer, place_of


class EpisodeMetrics(Metric):
    """Top-1, top-5, expected calibration error and negative log-likelihood, before and after adaptation.

    The change of top-1, after less before, has a 95 % interval, paired as both answers are to the same images.

    Each image has scores of its own (:meth:`scores`), which can be written down and added up later (:meth:`total`): the
    same numbers to the last digit, whatever the order and the number of devices and attempts. A prediction that is not
    finite counts as wrong; calibration error and likelihood of images with one among them are NaN.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, before: Tensor, after: Tensor, label: Tensor) -> None:
        """Add a batch: ``(E, K)`` logits and ``(E,)`` int64 labels; images of label -1 are left out."""
        known = (label >= 0).float().unsqueeze(-1)  # a column: selecting rows here would wait for the device
        self.rows.append(torch.cat([_both_scores(before, after, label), known], dim=-1))

    def compute(self) -> dict[str, float | int]:
        """Fractions (NLL in nats) by name, and ``n``; without labelled images only ``n``.

        ``top1_change_low`` and ``top1_change_high`` are the interval's ends, NaN for one image.
        """
        rows = dim_zero_cat(self.rows).tolist() if len(self.rows) else []
        return self.total(row[:-1] for row in rows if row[-1])

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        if not len(self.rows):  # a device without a batch: the others wait for rows of as many columns
            self.rows = [torch.zeros(0, 9, device=self.device)]
        super()._sync_dist(*args, **kwargs)

    @staticmethod
    def scores(before: Tensor, after: Tensor, label: Tensor) -> list[list[float] | None]:
        """Eight numbers for each image, from ``(E, K)`` logits and ``(E,)`` int64 labels; None where the label is -1.

        Before and after: right with the first class, right within the first five (1 or 0), negative log-likelihood in
        nats, confidence.
        """
        rows = _both_scores(before, after, label).tolist()
        return [row if each >= 0 else None for row, each in zip(rows, label.tolist(), strict=True)]

    @staticmethod
    def total(rows: Iterable[Sequence[float]]) -> dict[str, float | int]:
        """The result of :meth:`compute` from :meth:`scores` of images with a label, in any order: sums are exact."""
        table = torch.tensor(list(rows), dtype=torch.float64).reshape(-1, 2, 4)
        n = len(table)
        result: dict[str, float | int] = {"n": n}
        if n == 0:
            return result
        for row, when in enumerate(("before", "after")):
            first, five, nll, confidence = table[:, row].unbind(-1)
            result[f"top1_{when}"] = int(first.sum()) / n
            result[f"top5_{when}"] = int(five.sum()) / n
            result[f"ece_{when}"] = calibration_error(first.bool().numpy(), confidence.numpy())
            result[f"nll_{when}"] = math.fsum(nll.tolist()) / n
        differences = (table[:, 1, 0] - table[:, 0, 0]).tolist()
        change, half = sum(differences) / n, half_interval(differences)
        return {**result, "top1_change_low": change - half, "top1_change_high": change + half}


def half_interval(values: Sequence[float]) -> float:
    """Half the 95 % normal interval of the mean of independent values, the same in any order; NaN below two."""
    n = len(values)
    if n < 2:
        return math.nan
    mean = math.fsum(values) / n
    return 1.96 * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _both_scores(before: Tensor, after: Tensor, label: Tensor) -> Tensor:
    """``(E, 8)`` float32, as :meth:`EpisodeMetrics.scores`; rows of unknown labels mean nothing."""
    label = label.clamp(min=0)
    return torch.cat([_scores(before, label), _scores(after, label)], dim=-1)


def _scores(logits: Tensor, label: Tensor) -> Tensor:
    """``(E, 4)`` float32: right with the first class, within the first five, negative log-likelihood, confidence."""
    log_p = logits.float().log_softmax(-1)
    nll = -log_p.gather(1, label.unsqueeze(-1)).squeeze(-1)
    place, answered = place_of(logits, label), is_answer(logits)
    return torch.stack([(place < 1) & answered, (place < 5) & answered, nll, log_p.amax(-1).exp()], dim=-1)
