"""Votes of views, and the mean of the confident views: a baseline, an ensemble of views without any method."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lorattt.episodes.engine import fall_back
from lorattt.errors import UserError, quoted
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.shared_views import SharedViews
from lorattt.views.selection import gather_views, select_views, selection_size

Vote = Literal["soft", "hard"]
_SHARE_OF_PROBABILITIES = 1e-6


def count_votes(ballots: Tensor, classes: int) -> Tensor:
    """``(E, K)`` int64 votes for each class, from ``(E, n)`` int64: the class that each view votes for."""
    votes = torch.zeros(len(ballots), classes, dtype=torch.long, device=ballots.device)
    return votes.scatter_add_(1, ballots, torch.ones_like(ballots))


def mean_log_probability(logits: Tensor) -> Tensor:
    """``(E, K)`` logarithm of the mean class distribution of ``(E, n, K)`` logits; in log space nothing underflows."""
    return logits.log_softmax(-1).logsumexp(-2) - math.log(logits.shape[-2])


def vote_logits(votes: Tensor, log_mean: Tensor) -> Tensor:
    """``(E, K)`` logits: their softmax is the share of ``(E, K)`` votes, but for a millionth of the mean distribution.

    The winner of the vote is the arg-max and its share the confidence; the millionth orders classes of equally
    many votes, those without any included, by their mean probability, and keeps the likelihood of a label finite.
    """
    share = votes.to(log_mean.dtype) / votes.sum(-1, keepdim=True)
    voted = share.log() + math.log1p(-_SHARE_OF_PROBABILITIES)  # -inf without votes: adds nothing below
    return torch.logaddexp(voted, log_mean + math.log(_SHARE_OF_PROBABILITIES))


def check_vote(vote: str) -> None:
    """Validate the kind of vote."""
    if vote not in ("soft", "hard"):
        raise UserError(f"vote {quoted(vote)}: must be soft or hard")


def pooled_logits(logits: Tensor, vote: Vote) -> Tensor:
    """``(E, K)`` logits of the views that vote, ``(E, n, K)``, pooled.

    ``soft``: the logarithm of the mean class distribution. ``hard``: the share of votes for the most probable class,
    as in :func:`vote_logits`; the mean distribution breaks ties.
    """
    log_mean = mean_log_probability(logits)
    if vote == "soft":
        return log_mean
    return vote_logits(count_votes(logits.argmax(-1), logits.shape[-1]), log_mean)


@torch.no_grad()
def mean_of_views(logits: Tensor, selection: float, vote: Vote = "soft", *, scores: Tensor | None = None) -> Tensor:
    """``(E, K)`` logits of the confident views taken together, from ``(E, V, K)`` of all views.

    ``selection`` is the fraction of views that take part: the most confident ones, or those of the lowest ``scores``
    ``(E, V)``. They are pooled by :func:`pooled_logits`.
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
