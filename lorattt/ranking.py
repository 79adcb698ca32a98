"""Which class a row of logits predicts, and in which order the others follow: the one rule of all numbers and files.

Logits are compared as float32, without their softmax, whose rounding makes ties of its own. The larger logit comes
first; of equal ones, as those of two classes of one name are, the class of the lower number. A prediction that is not
finite (a NaN anywhere, or a largest logit that is infinite) has no class, so it is wrong whatever the label.
"""

from typing import Final

import torch
from torch import Tensor

NO_CLASS: Final = -1
"""In place of a class's number: the prediction was not finite."""


def top_k(logits: Tensor, k: int) -> Tensor:
    """The first ``k`` classes of ``(E, K)`` logits, or all if there are fewer: ``(E, min(k, K))`` int64.

    The predicted class comes first; a row that is not finite has :data:`NO_CLASS` throughout.
    """
    logits = logits.float()
    values, order = logits.topk(min(k + 1, logits.shape[-1]), dim=-1)  # one more, to see a tie at the end
    # topk takes any of equal logits. They are rare, so that sorting all classes is kept for the rows that have them.
    tied = (values[:, 1:] == values[:, :-1]).any(dim=-1)
    if tied.any():
        order[tied] = logits[tied].sort(dim=-1, descending=True, stable=True).indices[:, : order.shape[1]]
    return order[:, :k].where(is_answer(logits).unsqueeze(-1), NO_CLASS)


def is_right(logits: Tensor, label: Tensor, k: int = 1) -> Tensor:
    """``(E,)`` bool: whether the label ``(E,)`` int64 is among the first ``k`` classes of ``(E, K)`` logits.

    An unknown label, -1, is never right.
    """
    return (place_of(logits, label.clamp(min=0)) < k) & (label >= 0) & is_answer(logits)


def place_of(logits: Tensor, label: Tensor) -> Tensor:
    """``(E,)`` int64: how many classes come before the label, 0 to K - 1, in the order of ``(E, K)`` logits."""
    logits, label = logits.float(), label.unsqueeze(-1)
    own = logits.gather(-1, label)
    lower = torch.arange(logits.shape[-1], device=logits.device) < label
    return ((logits > own) | ((logits == own) & lower)).sum(dim=-1)


def is_answer(logits: Tensor) -> Tensor:
    """``(E,)`` bool: which rows of ``(E, K)`` logits predict a class at all."""
    return logits.float().amax(dim=-1).isfinite()
