"""Which views of an episode take part: the most confident ones, or those where the entropy is flat in the prompt."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lorattt.errors import UserError
from lorattt.losses.entropy import entropy

Rule = Literal["confidence", "flatness"]
ViewScores: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Features ``(E, V, D)`` and logits ``(E, V, K)`` of the views to scores ``(E, V)``; the lowest are taken."""


@dataclass(frozen=True)
class FlatnessSpec:
    """How flatness is measured; defaults are TLLA's, with directions where the paper says nothing.

    Args:
        directions: R, the number of random directions in which the prompt is moved.
        radius: L2 length of a step, over all context vectors together.
        sharpness: Weight of the entropy's worst increase; 1 ranks by the worst entropy, 0 by the prompt's own.
    """

    directions: int = 10
    radius: float = 0.5
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that measure nothing."""
        if self.directions < 1:
            raise UserError(f"directions {self.directions}: must be at least 1")
        for key in ("radius", "sharpness"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise UserError(f"{key} {getattr(self, key)}: must be a finite number of at least 0")


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
    return select_views(logits, size)


def select_views(logits: Tensor, size: int, scores: Tensor | None = None) -> Tensor:
    """Indices of the views of lowest score, lowest first.

    Args:
        logits: ``(*episode, V, K)``.
        size: How many to keep.
        scores: ``(*episode, V)``; None for the entropy of the logits.

    Returns:
        ``(*episode, size)`` int64. Equal scores keep the order of the views.
    """
    return select_lowest(entropy(logits) if scores is None else scores, size)


def select_lowest(scores: Tensor, size: int) -> Tensor:
    """Indices of the lowest scores, lowest first.

    Args:
        scores: ``(*episode, V)``; one that is not a number comes last.
        size: How many to keep.

    Returns:
        ``(*episode, size)`` int64. Equal scores keep the order of the views.
    """
    return torch.argsort(scores, dim=-1, stable=True)[..., :size]


@torch.no_grad()
def flatness_scores(
    features: Tensor, logits: Tensor, bank: Tensor, logit_scale: Tensor, sharpness: float = 1.0
) -> Tensor:
    """How high the entropy of each view is, or gets, around the prompt (STSS of TLLA, eq. 5).

    With H_0 a view's entropy and H_r that with the r-th neighbour of the prompt, its score is
    H_0 + sharpness * (max_r H_r - H_0). The neighbours take turns, so that memory does not grow with R.

    Args:
        features: ``(E, V, D)`` unit image features.
        logits: ``(E, V, K)`` of the same views with the prompt itself.
        bank: ``(R, K, D)`` unit class features of the prompt's neighbours.
        logit_scale: Scalar factor on cosines.
        sharpness: Weight of the worst increase.

    Returns:
        ``(E, V)`` of at least float32; the lowest are the flattest.
    """
    scaled = logit_scale * features
    worst = entropy(scaled @ bank[0].T)
    for text in bank[1:]:
        worst = torch.maximum(worst, entropy(scaled @ text.T))
    # lerp has exactly its ends at weights 0 and 1.
    return torch.lerp(entropy(logits), worst, sharpness)


def take_views(x: Tensor, selected: Tensor) -> Tensor:
    """Gather the selected views of every episode.

    Args:
        x: ``(E, V, *)``.
        selected: ``(E, n)`` int64.

    Returns:
        ``(E, n, *)``.
    """
    return x[torch.arange(x.shape[0], device=x.device).unsqueeze(-1), selected]
