"""MTA (Zanella and Ben Ayed, CVPR 2024): the mode of an image's views, found with a robust MeanShift.

Nothing is trained. Each view p has a feature f_p, a bandwidth h_p from its nearest views, and an inlierness y_p
that is learned along with the mode m:

    density     k_p = exp(-|f_p - m|^2 / (2 h_p^2))
    inlierness  y   = softmax((k + lambda_q * A y) / lambda_y),  A_pq = <softmax(logits_p), softmax(logits_q)>
    mode        m   = sum_p y_p k_p f_p, made a unit vector

Both are fixed points; they take turns, and the mode classifies the image. All images of a batch go at once: every
iteration is computed for all, and an image whose fixed point has converged keeps it, so that its result is the one
it would have alone. One deviation: views that are all alike have a bandwidth of 0, with which the authors' program
divides; here it is at least 1e-6, and their mode is their feature.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.episodes.engine import fall_back
from lorattt.errors import UserError
from lorattt.inputs import at_least, finite
from lorattt.methods.base import Method
from lorattt.methods.shared_views import SharedViews

_LEAST_BANDWIDTH = 1e-6


@dataclass(frozen=True)
class MTASpec:
    """The constants of MTA; defaults are the authors'.

    Args:
        lambda_y: Temperature of the inlierness: the larger, the more alike all views count.
        lambda_q: Weight of the views' agreement in their class distributions.
        bandwidth: Fraction of the other views, the nearest ones, that set a view's bandwidth.
        outer: How often inlierness and mode take turns.
        inner: Most iterations of a fixed point.
        threshold: A fixed point has converged where it moved less than this.
    """

    lambda_y: float = 0.2
    lambda_q: float = 4.0
    bandwidth: float = 0.3
    outer: int = 5
    inner: int = 5
    threshold: float = 1e-6

    def __post_init__(self) -> None:
        """Validate the ranges."""
        if not 0 < self.lambda_y < float("inf"):
            raise UserError(f"mta.lambda_y {self.lambda_y}: must be a finite number above 0")
        finite(mta__lambda_q=self.lambda_q)
        if not 0 < self.bandwidth <= 1:
            raise UserError(f"mta.bandwidth {self.bandwidth}: the fraction of nearest views must be in (0, 1]")
        at_least(1, mta__outer=self.outer, mta__inner=self.inner)
        at_least(0, mta__threshold=self.threshold)

    def neighbours(self, views: int) -> int:
        """How many of the other views set a view's bandwidth; none is an error."""
        count = int(self.bandwidth * (views - 1))
        if count == 0:
            raise UserError(
                f"mta.bandwidth {self.bandwidth} of {views} views counts no neighbour: make more views, "
                "or take a larger fraction"
            )
        return count


@torch.no_grad()
def mta_mode(image_features: Tensor, text_features: Tensor, logit_scale: Tensor, spec: MTASpec = MTASpec()) -> Tensor:
    """``(E, D)`` unit vectors, the modes of the ``(E, V, D)`` unit features of the views of E images.

    A mode starts at view 0, the plain one. The unit class features are ``(K, D)`` or ``(E, K, D)``.
    """
    f = image_features
    # Products instead of differences would be faster and lose the small distances, which are those that count.
    distances = torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.sort(dim=-1).values[..., 1 : spec.neighbours(f.shape[1]) + 1]  # the first is the view itself
    width = (0.5 * (nearest**2).mean(-1)).sqrt().clamp_min(_LEAST_BANDWIDTH)  # (E, V)
    p = (logit_scale * f @ text_features.transpose(-1, -2)).softmax(-1)
    affinity = spec.lambda_q * p @ p.transpose(-1, -2)  # (E, V, V)

    def density(mode: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(f - mode.unsqueeze(1), dim=-1)
        return torch.exp(-(distance**2) / (2 * width**2))

    y, mode = f.new_full(f.shape[:2], 1 / f.shape[1]), f[:, 0]
    for _ in range(spec.outer):
        k = density(mode)
        moving = torch.ones(len(f), 1, dtype=torch.bool, device=f.device)
        for _ in range(spec.inner):
            new = ((k + (affinity @ y.unsqueeze(-1)).squeeze(-1)) / spec.lambda_y).softmax(-1)
            y, moving = _advance(y, new, moving, spec.threshold)
        moving = torch.ones_like(moving)
        for _ in range(spec.inner):
            new = F.normalize(((density(mode) * y).unsqueeze(1) @ f).squeeze(1), dim=-1)
            mode, moving = _advance(mode, new, moving, spec.threshold)
    return mode


def _advance(old: Tensor, new: Tensor, moving: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Take the new values ``(E, *)`` of the episodes that are moving ``(E, 1)``, and which of them still are."""
    step = torch.linalg.vector_norm(new - old, dim=-1, keepdim=True)
    return torch.where(moving, new, old), moving & ~(step < threshold)


class MTA(Method):
    """MTA as a LightningModule: any image tower, no gradients; defaults are the authors' setting.

    Args:
        mta: The constants of the method.
        **kwargs: See :class:`Method`.
    """

    name: ClassVar[str] = "mta"

    def __init__(self, *, mta: MTASpec = MTASpec(), **kwargs: Any) -> None:
        self.mta = mta
        super().__init__(**kwargs)

    def check_options(self) -> None:
        """Require at least one neighbour for a bandwidth."""
        self.mta.neighbours(self.views.number)
        super().check_options()

    @torch.no_grad()
    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` of the plain view and of the mode, and fallbacks ``(E,)``."""
        scale, features = self.clip.logit_scale, views.features
        before = scale * features[:, 0] @ self.text.T
        return fall_back(before, scale * mta_mode(features, self.text, scale, self.mta) @ self.text.T)
