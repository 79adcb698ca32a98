"""Cross-entropy and the entropy of views around a prompt, along two random directions of its context.

The picture of Li et al. (NeurIPS 2018) for a prompt: the context is moved by ``a * u + b * v`` for a square of
(a, b), with u and v orthonormal over the whole block of context vectors. So a and b are L2 distances, those in which
the radii of SAPT and STSS are given, and pictures of two prompts have the same scale.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.model import Clip
from lorattt.errors import UserError
from lorattt.inputs import at_least
from lorattt.losses.entropy import entropy
from lorattt.prompts.class_prompts import (
    ClassPrompts,
    features_in_parts,
    neighbour_features,
    neighbours,
    random_directions,
)
from lorattt.views.selection import flatness_scores, select_lowest

_RANKING_DIRECTIONS = 10  # those of STSS
_VIEWS_AT_A_TIME = 64


@dataclass(frozen=True)
class LandscapeSpec:
    """The images and the grid of a picture.

    Args:
        images: How many of the data's images, evenly spread.
        views: Views of an image.
        views_kept: How many of them are kept, as STSS does: those of the lowest score at the prompt.
        radius: How far the picture goes from the prompt, in L2 distance over all context vectors together.
        points: Places along either direction; odd, so that the prompt is one of them. Class texts are encoded
            ``points ** 2`` times.
        rho: Radius of the circle in the picture, within which the summary looks for the worst place; also how far
            the neighbours lie that rank the views.
    """

    images: int = 48
    views: int = 64
    views_kept: int = 6
    radius: float = 1.0
    points: int = 21
    rho: float = 0.5

    def __post_init__(self) -> None:
        """Validate the ranges."""
        at_least(1, landscape__images=self.images)
        if not 1 <= self.views_kept < self.views:
            raise UserError(
                f"landscape.views_kept {self.views_kept} of {self.views} views: some must be kept and some dropped"
            )
        if not 0 < self.radius < float("inf"):
            raise UserError(f"landscape.radius {self.radius}: must be a finite number above 0")
        if self.points < 3 or self.points % 2 == 0:
            raise UserError(f"landscape.points {self.points}: must be odd and at least 3, such as 21")
        if not 0 <= self.rho <= self.radius:
            raise UserError(f"landscape.rho {self.rho}: must be from 0 to landscape.radius, {self.radius}")

    @property
    def coordinates(self) -> list[float]:
        """The places along either direction; the middle one is exactly 0."""
        half = self.points // 2
        return [self.radius * number / half for number in range(-half, half + 1)]


@dataclass(frozen=True)
class Landscape:
    """``(P, P)`` values in nats; ``[i, j]`` is that of ``coordinates[i]`` along u and ``coordinates[j]`` along v."""

    loss: Tensor | None  # mean cross-entropy of the labelled images; None without labels
    kept: Tensor  # mean entropy of the kept views
    dropped: Tensor  # mean entropy of the others


def axes(context: Tensor, seed: int) -> Tensor:
    """``(2, M, d)`` float64 on the CPU: two orthonormal directions of a context ``(M, d)`` or ``(K, M, d)``."""
    # Those that follow the ones of the ranking: along those, kept views would be flat by construction.
    u, v = random_directions(seed, _RANKING_DIRECTIONS + 2, *context.shape[-2:])[-2:]
    v = v - (u * v).sum() * u
    return torch.stack([u, v / torch.linalg.vector_norm(v)])


@torch.no_grad()
def encode(clip: Clip, views: Tensor) -> Tensor:
    """``(*, 3, S, S)`` uint8 to ``(*, D)`` float32 unit features, a few views at a time."""
    device = clip.mean.device
    parts = views.flatten(0, -4).split(_VIEWS_AT_A_TIME)
    features = torch.cat([clip.image_features(part.to(device)) for part in parts])
    return features.view(*views.shape[:-3], -1)


@torch.no_grad()
def landscape(
    prompts: ClassPrompts,
    context: Tensor,
    views: Tensor,
    logit_scale: Tensor,
    spec: LandscapeSpec,
    *,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> Landscape:
    """Compute the values over the square, float64 on the CPU.

    The prompt's ``context`` is ``(M, d)`` float32, or ``(K, M, d)`` if class-specific; ``views`` ``(N, V, D)`` are unit
    features, and those of the lowest score are kept. ``images`` ``(B, D)`` are unit features for the cross-entropy, of
    the ``labels`` ``(B,)`` int64. The run's ``seed`` decides the directions.
    """
    # The views that STSS keeps at the prompt.
    neighbour_text = neighbour_features(prompts, context, directions=_RANKING_DIRECTIONS, radius=spec.rho, seed=seed)
    scores = flatness_scores(views, logit_scale * views @ prompts.features(context).T, neighbour_text, logit_scale)
    chosen = select_lowest(scores, spec.views_kept)
    keep = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)  # (N, V)
    u, v = axes(context, seed)
    places = torch.tensor(spec.coordinates, dtype=torch.float64)
    steps = places.view(-1, 1, 1, 1) * u + places.view(1, -1, 1, 1) * v  # (P, P, M, d)
    contexts = neighbours(context, steps.flatten(0, 1), 1.0)
    losses, kept, dropped = [], [], []
    for part in features_in_parts(prompts, contexts):
        for text in part:
            # One place at a time: its logits are all that needs memory.
            uncertain = entropy(logit_scale * views @ text.T).double()
            kept.append(uncertain[keep].mean())
            dropped.append(uncertain[~keep].mean())
            if images is not None and labels is not None:
                losses.append(F.cross_entropy(logit_scale * images @ text.T, labels).double())
    shape = (spec.points, spec.points)
    low, high = (torch.stack(found).cpu().view(shape) for found in (kept, dropped))
    return Landscape(torch.stack(losses).cpu().view(shape) if losses else None, low, high)


def summarise(values: Tensor, spec: LandscapeSpec) -> dict[str, float]:
    """``(P, P)`` values at the prompt, the largest at most ``rho`` away, and their difference."""
    places = torch.tensor(spec.coordinates, dtype=torch.float64)
    near = torch.hypot(places.view(-1, 1), places.view(1, -1)) <= spec.rho * (1 + 1e-9)
    half = spec.points // 2
    at_prompt, worst = float(values[half, half]), float(values[near].max())
    return {"at_prompt": at_prompt, "worst_within_rho": worst, "increase": worst - at_prompt}
