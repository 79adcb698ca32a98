"""ZERO (Farina et al., NeurIPS 2024): the vote of the confident views, which is their mean at temperature zero.

Nothing is trained. The int(V * gamma) views of lowest entropy vote for their most probable class. A tie is broken
by further views: the first one whose vote is for a tied class decides, and its class gets one more vote. As in the
authors' program these are the views that did not vote, most confident first (``ties: confident``). ``ties: number``
takes them by view number instead, from view int(V * gamma) on, whether they voted or not. Where no view decides, the
tied class of the largest mean probability wins; the authors' program then takes an arbitrary one.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lorattt.episodes.engine import fall_back
from lorattt.errors import UserError, quoted
from lorattt.methods.base import Method
from lorattt.methods.mean_of_views import count_votes, mean_log_probability, vote_logits
from lorattt.methods.shared_views import SharedViews
from lorattt.views.selection import gather_views, select_confident


@dataclass(frozen=True)
class ZeroSpec:
    """The constants of ZERO.

    Args:
        gamma: Fraction of views that vote, the most confident ones; 0.3 in the authors' program.
        ties: Which further views break a tie: the next most confident ones, as in the authors' program, or views in
            the order of their numbers.
    """

    gamma: float = 0.3
    ties: Literal["confident", "number"] = "confident"

    def __post_init__(self) -> None:
        """Validate the ranges."""
        if not 0 < self.gamma <= 1:
            raise UserError(f"zero.gamma {self.gamma}: the fraction of views that vote must be in (0, 1]")
        if self.ties not in ("confident", "number"):
            raise UserError(f"zero.ties {quoted(self.ties)}: must be confident or number")

    def voters(self, views: int) -> int:
        """How many of the views vote; none is an error."""
        count = int(views * self.gamma)
        if count == 0:
            raise UserError(f"zero.gamma {self.gamma} of {views} views: none votes; make more views or raise gamma")
        return count


@torch.no_grad()
def zero_votes(logits: Tensor, spec: ZeroSpec = ZeroSpec()) -> tuple[Tensor, Tensor]:
    """The votes of the confident views, from ``(E, V, K)`` logits of all views.

    Returns votes ``(E, K)`` int64, one more for the winner of a tie, so that the arg-max is unique; and ``(E, n)``
    int64, the views that voted, most confident first.
    """
    count = spec.voters(logits.shape[1])
    order = select_confident(logits, logits.shape[1])
    winners = logits.argmax(-1)  # (E, V)
    ballots = winners.gather(1, order)
    voters = order[:, :count]
    votes = count_votes(ballots[:, :count], logits.shape[-1])
    tied = votes == votes.amax(-1, keepdim=True)  # (E, K)
    log_mean = mean_log_probability(gather_views(logits, voters))
    winner = log_mean.where(tied, log_mean.new_tensor(-torch.inf)).argmax(-1, keepdim=True)  # (E, 1)
    further = (ballots if spec.ties == "confident" else winners)[:, count:]
    if further.shape[1]:
        decides = tied.gather(1, further)
        first = further.gather(1, decides.long().argmax(-1, keepdim=True))  # the first of equal maxima
        winner = torch.where(decides.any(-1, keepdim=True), first, winner)
    extra = (tied.sum(-1, keepdim=True) > 1).long()
    return votes.scatter_add(1, winner, extra), voters


class ZERO(Method):
    """ZERO as a LightningModule: any image tower, no gradients; defaults are the authors' setting.

    The logits after are the logarithm of (1 - 1e-6) times the share of votes plus 1e-6 times the mean distribution
    of the voters: the arg-max is the vote's winner, the confidence its share of the votes, and classes without votes
    are still ordered.

    Args:
        zero: The constants of the method.
        **kwargs: See :class:`Method`.
    """

    name: ClassVar[str] = "zero"

    def __init__(self, *, zero: ZeroSpec = ZeroSpec(), **kwargs: Any) -> None:
        self.zero = zero
        super().__init__(**kwargs)

    def check_options(self) -> None:
        """Require at least one view that votes."""
        self.zero.voters(self.views.number)
        super().check_options()

    @torch.no_grad()
    def kept(self, views: SharedViews) -> Tensor | None:
        """``(E, n)`` int64, the views that vote, most confident first."""
        return zero_votes(self.clip.logit_scale * views.features @ self.text.T, self.zero)[1]

    @torch.no_grad()
    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` of the plain view and of the vote, and fallbacks ``(E,)``."""
        logits = self.clip.logit_scale * views.features @ self.text.T
        votes, voters = zero_votes(logits, self.zero)
        return fall_back(logits[:, 0], vote_logits(votes, mean_log_probability(gather_views(logits, voters))))
