"""Accuracy, calibration and likelihood of two sets of logits, from sums alone, exact on any number of devices."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lorattt.calibration import ECE_BINS, UNIT, bin_of, calibration_error
from lorattt.ranking import is_right

_WHEN = ("before", "after")


class EpisodeMetrics(Metric):
    """Top-1, top-5, expected calibration error and negative log-likelihood, before and after adaptation.

    Every state is a sum over images, so devices are merged by adding, whatever their shares. What each image adds
    to the sums can also be had alone (:meth:`scores`), written down, and summed later (:meth:`total`): the same
    numbers to the last digit, whatever the order and the number of devices and attempts.

    :mod:`lorattt.ranking` defines the predicted class, :mod:`lorattt.calibration` the bins. A prediction that is not
    finite counts as wrong; calibration error and likelihood of images with one among them are NaN.
    """

    full_state_update = False
    count: Tensor
    hits: Tensor
    nll: Tensor
    gaps: Tensor
    unsure: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        # Rows: before, after. Columns: in the first 1, in the first 5.
        self.add_state("hits", torch.zeros(2, 2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros(2), dist_reduce_fx="sum")
        # Per confidence bin: sum of confidences less number of right ones, in millionths.
        self.add_state("gaps", torch.zeros(2, ECE_BINS, dtype=torch.long), dist_reduce_fx="sum")
        # Confidences that are not finite.
        self.add_state("unsure", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, before: Tensor, after: Tensor, label: Tensor) -> None:
        """Add a batch.

        Args:
            before: ``(E, K)`` logits.
            after: ``(E, K)`` logits.
            label: ``(E,)`` int64; images of label -1 are left out.
        """
        known = label >= 0
        label = label[known]
        self.count += len(label)
        for row, logits in enumerate((before[known], after[known])):
            first, five, nll, confidence = _scores(logits, label).unbind(-1)
            self.hits[row, 0] += first.sum().long()
            self.hits[row, 1] += five.sum().long()
            self.nll[row] += nll.sum()
            finite = confidence.isfinite()
            millionths = _millionths(confidence.where(finite, 0))
            self.gaps[row].index_add_(0, bin_of(millionths), millionths - UNIT * first.long())
            self.unsure[row] += (~finite).sum()

    def compute(self) -> dict[str, float | int]:
        """Fractions in ``[0, 1]`` (NLL in nats) by name, and ``n``; without labelled images only ``n``."""
        n = int(self.count)
        result: dict[str, float | int] = {"n": n}
        if n == 0:
            return result
        for row, when in enumerate(_WHEN):
            result[f"top1_{when}"] = self.hits[row, 0].item() / n
            result[f"top5_{when}"] = self.hits[row, 1].item() / n
            gaps = self.gaps[row].abs().sum().item() / (UNIT * n)
            result[f"ece_{when}"] = math.nan if self.unsure[row] else gaps
            result[f"nll_{when}"] = self.nll[row].item() / n
        return result

    @staticmethod
    def scores(before: Tensor, after: Tensor, label: Tensor) -> list[list[float] | None]:
        """What each image adds; nothing is added here.

        Args:
            before: ``(E, K)`` logits.
            after: ``(E, K)`` logits.
            label: ``(E,)`` int64.

        Returns:
            For each image eight numbers, before and after: right with the first class, right within the first five
            (1 or 0), negative log-likelihood in nats, confidence. None where the label is -1.
        """
        known = label >= 0
        target = label.clamp(min=0)
        rows = torch.cat([_scores(before, target), _scores(after, target)], dim=-1).tolist()
        return [row if each else None for row, each in zip(rows, known.tolist(), strict=True)]

    @staticmethod
    def total(rows: Iterable[Sequence[float]]) -> dict[str, float | int]:
        """What :meth:`compute` gives, from what :meth:`scores` gave of images with a label, in any order.

        Sums are exact before they are rounded once, so they do not depend on the order.
        """
        table = torch.tensor(list(rows), dtype=torch.float64).reshape(-1, len(_WHEN), 4)
        n = len(table)
        result: dict[str, float | int] = {"n": n}
        if n == 0:
            return result
        for row, when in enumerate(_WHEN):
            first, five, nll, confidence = table[:, row].unbind(-1)
            result[f"top1_{when}"] = int(first.sum()) / n
            result[f"top5_{when}"] = int(five.sum()) / n
            result[f"ece_{when}"] = calibration_error(first.bool().numpy(), confidence.numpy())
            result[f"nll_{when}"] = math.fsum(nll.tolist()) / n
        return result


def _scores(logits: Tensor, label: Tensor) -> Tensor:
    """``(E, 4)`` float32: right with the first class, within the first five, negative log-likelihood, confidence."""
    logits = logits.float()
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(1, label.unsqueeze(-1)).squeeze(-1)
    hits = [is_right(logits, label, k).float() for k in (1, 5)]
    return torch.stack([*hits, nll, log_p.amax(-1).exp()], dim=-1)


def _millionths(confidence: Tensor) -> Tensor:
    """``(E,)`` float32 confidences as ``predictions.csv`` has them: int64 millionths."""
    exact = confidence.to("cpu", torch.float64)  # not every device has float64, and float32 would round once more
    return (exact * UNIT).round().long().to(confidence.device)
