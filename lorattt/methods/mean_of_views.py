"""The mean of the confident views: what an ensemble of views gives without any method. A baseline."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lorattt.episodes.engine import fall_back
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.shared_views import SharedViews
from lorattt.methods.votes import Vote, check_vote, pooled_logits
from lorattt.views.selection import gather_views, select_views, selection_size


@torch.no_grad()
def mean_of_views(logits: Tensor, selection: float, vote: Vote = "soft", *, scores: Tensor | None = None) -> Tensor:
    """``(E, K)`` logits of the confident views taken together, from ``(E, V, K)`` of all views.

    ``selection`` is the fraction of views that take part: the most confident ones, or those of the lowest ``scores``
    ``(E, V)``. They are pooled by :func:`lorattt.methods.votes.pooled_logits`.
    """
    size = selection_size(logits.shape[1], selection)
    return pooled_logits(gather_views(logits, select_views(logits, size, scores)), vote)


class MeanOfViews(RankedViews):
    """The mean class distribution of the confident views, or their majority.

    Args:
        selection: Fraction of views that take part, the most confident ones; 1 for all.
        vote: ``soft`` takes the mean of the class distributions, ``hard`` the majority of the arg-maxima.
        **kwargs: See :class:`RankedViews`.
    """

    name: ClassVar[str] = "mean_of_views"

    def __init__(self, *, selection: float = 0.1, vote: Vote = "soft", **kwargs: Any) -> None:
        self.selection, self.vote = selection, vote
        super().__init__(**kwargs)

    def check_options(self) -> None:
        """Validate the vote."""
        check_vote(self.vote)
        super().check_options()

    @torch.no_grad()
    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` of the plain view and of the confident views, and fallbacks ``(E,)``."""
        logits = self.clip.logit_scale * views.features @ self.text.T
        scores = self.view_scores
        ranked = scores and scores(views.features, logits)
        return fall_back(logits[:, 0], mean_of_views(logits, self.selection, self.vote, scores=ranked))
