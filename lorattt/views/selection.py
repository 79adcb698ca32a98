"""Which views of an episode take part in the loss."""

import math

import torch
from torch import Tensor

from lorattt.errors import UserError
from lorattt.losses.entropy import entropy


def selection_size(views: int, fraction: float) -> int:
    """How many views ``fraction`` keeps: ``int(views * fraction)``, 6 of 64 for 0.1.

    Raises:
        UserError: If none would be kept, or the fraction is not in ``(0, 1]``.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"selection {fraction}: the fraction of views to keep must be in (0, 1]")
    size = int(views * fraction)
    if size == 0:
        raise UserError(
            f"selection {fraction} of {views} views keeps none: use at least {-(-1 // fraction):.0f} views "
            f"or a fraction of at least {math.ceil(1e4 / views) / 1e4:g}"
        )
    return size


def select_confident(logits: Tensor, size: int) -> Tensor:
    """Indices of the views of lowest entropy, lowest first (confidence selection of TPT, section 3.2).

    Args:
        logits: ``(*episode, V, K)``.
        size: How many to keep.

    Returns:
        ``(*episode, size)`` int64. Equal entropies keep the order of the views.
    """
    return torch.argsort(entropy(logits), dim=-1, stable=True)[..., :size]


def take_views(x: Tensor, selected: Tensor) -> Tensor:
    """Gather the selected views of every episode.

    Args:
        x: ``(E, V, *)``.
        selected: ``(E, n)`` int64.

    Returns:
        ``(E, n, *)``.
    """
    return x[torch.arange(x.shape[0], device=x.device).unsqueeze(-1), selected]
