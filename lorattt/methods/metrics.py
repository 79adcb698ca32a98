"""Accuracy, calibration and likelihood of two sets of logits, from sums alone, exact on any number of devices."""

import torch
from torch import Tensor
from torchmetrics import Metric

ECE_BINS = 20  # as in C-TPT's code


class EpisodeMetrics(Metric):
    """Top-1, top-5, expected calibration error and negative log-likelihood, before and after adaptation.

    Every state is a sum over images, so devices are merged by adding, whatever their shares.
    """

    full_state_update = False
    count: Tensor
    hits: Tensor
    nll: Tensor
    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        # Rows: before, after. Columns: in the first 1, in the first 5.
        self.add_state("hits", torch.zeros(2, 2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros(2), dist_reduce_fx="sum")
        # Per confidence bin: number of images, sum of confidences, number of right ones.
        self.add_state("bins", torch.zeros(2, 3, ECE_BINS), dist_reduce_fx="sum")

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
        for row, logits in enumerate((before[known].float(), after[known].float())):
            top = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == label.unsqueeze(-1)
            self.hits[row, 0] += top[:, 0].sum()
            self.hits[row, 1] += top.sum()
            log_p = logits.log_softmax(-1)
            self.nll[row] -= log_p.gather(1, label.unsqueeze(-1)).sum()
            confidence = log_p.amax(-1).exp()
            # Bins are open below and closed above: (0, 1/20], (1/20, 2/20], ...
            place = ((confidence * ECE_BINS).ceil().long() - 1).clamp(0, ECE_BINS - 1)
            for part, value in enumerate((torch.ones_like(confidence), confidence, top[:, 0].float())):
                self.bins[row, part] += torch.zeros_like(self.bins[row, part]).index_add_(0, place, value)

    def compute(self) -> dict[str, float | int]:
        """Fractions in ``[0, 1]`` (NLL in nats) by name, and ``n``; without labelled images only ``n``."""
        n = int(self.count)
        result: dict[str, float | int] = {"n": n}
        if n == 0:
            return result
        for row, when in enumerate(("before", "after")):
            _, confidence, right = self.bins[row]
            result[f"top1_{when}"] = self.hits[row, 0].item() / n
            result[f"top5_{when}"] = self.hits[row, 1].item() / n
            result[f"ece_{when}"] = (confidence - right).abs().sum().item() / n
            result[f"nll_{when}"] = self.nll[row].item() / n
        return result
