"""Selection of views, the most confident ones or those whose entropy is flat around the prompt, and of patches."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lorattt.errors import UserError
from lorattt.inputs import at_least, finite
from lorattt.losses.entropy import entropy
from lorattt.rng import fold, uniform

Rule = Literal["confidence", "flatness"]
ViewScores: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Features ``(E, V, D)`` and logits ``(E, V, K)`` of the views to scores ``(E, V)``; the lowest are selected."""


@dataclass(frozen=True)
class FlatnessSpec:
    """How flatness is measured; defaults are TLLA's, except for the directions, which the paper does not give.

    Args:
        directions: R, the number of random directions in which the prompt is moved.
        radius: L2 length of a step, over all context vectors together.
        sharpness: Weight of the entropy's worst increase; 1 ranks by the worst entropy, 0 by the prompt's own.
    """

    directions: int = 10
    radius: float = 0.5
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(1, directions=self.directions)
        finite(radius=self.radius, sharpness=self.sharpness)


def selection_size(views: int, fraction: float) -> int:
    """How many views ``fraction`` keeps: ``int(views * fraction)``, 6 of 64 for 0.1; a UserError if none."""
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
    """Indices of the views of lowest entropy, lowest first (TPT, section 3.2): ``(*, V, K)`` to ``(*, size)`` int64."""
    return select_lowest(entropy(logits), size)


def select_views(logits: Tensor, size: int, scores: Tensor | None = None) -> Tensor:
    """As :func:`select_lowest` for scores ``(*, V)``; without, as :func:`select_confident`."""
    return select_lowest(entropy(logits) if scores is None else scores, size)


def select_lowest(scores: Tensor, size: int) -> Tensor:
    """Indices of the lowest scores, lowest first and NaN last, ties in order: ``(*, V)`` to ``(*, size)`` int64."""
    return torch.argsort(scores, dim=-1, stable=True)[..., :size]


@torch.no_grad()
def flatness_scores(
    features: Tensor, logits: Tensor, neighbour_text: Tensor, logit_scale: Tensor, sharpness: float = 1.0
) -> Tensor:
    """Entropy of each view at the prompt and around it (STSS of TLLA, eq. 5).

    With H_0 a view's entropy and H_r that with the r-th neighbour of the prompt, its score is
    H_0 + sharpness * (max_r H_r - H_0). The neighbours take turns, so that memory does not grow with R.

    From unit features ``(E, V, D)`` of the views, their logits ``(E, V, K)`` with the prompt itself and unit class
    features ``(R, K, D)`` of its neighbours: ``(E, V)`` of at least float32; the lowest are the flattest.
    """
    scaled = logit_scale * features
    worst = entropy(scaled @ neighbour_text[0].T)
    for text in neighbour_text[1:]:
        worst = torch.maximum(worst, entropy(scaled @ text.T))
    # lerp has exactly its ends at weights 0 and 1.
    return torch.lerp(entropy(logits), worst, sharpness)


def gather_views(x: Tensor, selected: Tensor) -> Tensor:
    """Gather the views ``(E, n)`` int64 of each episode from ``(E, V, *)``: ``(E, n, *)``."""
    return x[torch.arange(x.shape[0], device=x.device).unsqueeze(-1), selected]


def kept_count(patches: int, mask_ratio: float) -> int:
    """How many patches stay: ``int(patches * (1 - mask_ratio))``, 49 of 196 for 0.75; a UserError if none."""
    if not 0 < mask_ratio < 1:
        raise UserError(f"mask_ratio {mask_ratio}: must be between 0 and 1, both excluded")
    count = int(patches * (1 - mask_ratio))
    if count == 0:
        raise UserError(f"mask_ratio {mask_ratio} keeps none of {patches} patches: lower it")
    return count


def random_kept_patches(keys: Tensor, views: Tensor, patches: int, count: int) -> Tensor:
    """A uniformly random subset of patch positions for each view: ``(E, n, count)`` int64, in random order.

    A function of the episode's key ``(E,)`` and the view's number ``(E, n)`` alone, both int64: a view's mask does not
    depend on its place in the selection.
    """
    draws = uniform(fold(keys.unsqueeze(-1).expand_as(views), views), (patches,))
    return torch.argsort(draws, dim=-1, stable=True)[..., :count]
