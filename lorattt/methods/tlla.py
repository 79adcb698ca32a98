"""TLLA (Li et al., 2025, arXiv 2501.18864; FGA in its second version), at test time: STSS, views of flat entropy vote.

Nothing is trained here. With p the prompt's context, ``(M, d)``, and H the entropy of a view's class distribution
(equation numbers are the paper's):

    neighbours  p_r = p + radius * u_r / |u_r|,  u_r ~ N(0, I),  r = 1..R                       (5)
    texts       t_kr = text(class k, p_r), encoded once per class list                          (6)
    entropy     H_r(view) = H(softmax_k(scale * view . t_kr)),  H_0 with p itself               (7), (8)
    score       H_0 + sharpness * (max_r H_r - H_0)                                             (5)
    prediction  mean of softmax_k(scale * view . t_k) over the ``views_kept`` views of lowest score

With the paper's sharpness of 1 the score is max_r H_r. The plain view is a candidate like the others. The other
half of the method, SAPT, learns the prompt beforehand; STSS takes any prompt.

The paper leaves open R, the number of views that vote, how they vote, the norm of u_r (here over the whole block
``(M, d)``), and how often directions are drawn (here once, from the run's seed). ``docs/tlla.md`` has the reasons.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorattt.clip.load import ClipSpec
from lorattt.episodes.engine import fall_back
from lorattt.errors import UserError
from lorattt.methods.mean_of_views import Vote, check_vote, pooled_logits
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.shared_views import SharedViews
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.selection import FlatnessSpec, flatness_scores, gather_views, select_lowest


@dataclass(frozen=True)
class FlatVote:
    """The vote of the flattest views of E images."""

    before: Tensor  # (E, K) logits of the plain view
    after: Tensor  # (E, K) logits of the vote; before where they were not finite
    fallback: Tensor  # (E,) bool, true where they were not
    scores: Tensor  # (E, V), the lower the flatter
    selected: Tensor  # (E, s) int64, the views that voted, flattest first


@torch.no_grad()
def stss(
    features: Tensor,
    text: Tensor,
    neighbour_text: Tensor,
    logit_scale: Tensor,
    *,
    views_kept: int = 6,
    sharpness: float = 1.0,
    vote: Vote = "soft",
) -> FlatVote:
    """Sharpness-based test sample selection: the flattest views of E images vote.

    Args:
        features: ``(E, V, D)`` unit image features of the views; view 0 is the plain one.
        text: ``(K, D)`` unit class features of the prompt.
        neighbour_text: ``(R, K, D)`` unit class features of its neighbours.
        logit_scale: Scalar factor on cosines.
        views_kept: s, how many views vote.
        sharpness: Weight of the entropy's worst increase.
        vote: ``soft`` takes the mean of the class distributions, ``hard`` the majority of the arg-maxima.
    """
    check_views_kept(views_kept, features.shape[1])
    check_vote(vote)
    logits = logit_scale * features @ text.T
    scores = flatness_scores(features, logits, neighbour_text, logit_scale, sharpness)
    selected = select_lowest(scores, views_kept)
    votes = pooled_logits(gather_views(logits, selected), vote)
    before, after, fallback = fall_back(logits[:, 0], votes)
    return FlatVote(before, after, fallback, scores=scores, selected=selected)


def check_views_kept(kept: int, views: int) -> None:
    """Validate the number of views that vote."""
    if not 1 <= kept <= views:
        raise UserError(f"views_kept {kept} of {views} views: must be from 1 to the number of views")


class TLLA(RankedViews):
    """STSS as a LightningModule: any image tower, no gradients.

    Args:
        clip: Which CLIP to use; its text tower must take a prompt.
        prompt: Where the context comes from: the file of a learned prompt (SAPT, CoOp), or words.
        views: How the views of an image are made; AugMix is for fine-grained sets, as in TPT.
        directions: R, the number of random directions in which the prompt is moved.
        radius: L2 length of a step, over all context vectors together.
        sharpness: Weight of the entropy's worst increase; 1 ranks by the worst entropy, 0 by the prompt's own.
        views_kept: s, how many views vote, the flattest ones.
        vote: ``soft`` takes the mean of the class distributions, ``hard`` the majority of the arg-maxima.
        **kwargs: See :class:`Method`.
    """

    name: ClassVar[str] = "tlla"

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        prompt: PromptSpec = PromptSpec(),
        views: ViewSpec = ViewSpec(),
        directions: int = 10,
        radius: float = 0.5,
        sharpness: float = 1.0,
        views_kept: int = 6,
        vote: Vote = "soft",
        **kwargs: Any,
    ) -> None:
        self.views_kept, self.vote = views_kept, vote
        flatness = FlatnessSpec(directions, radius, sharpness)
        super().__init__(
            rule="flatness", flatness=flatness, clip=clip, prompt=prompt, templates="single", views=views, **kwargs
        )

    def kept_count(self, views: int) -> int:
        """The number of views that vote, as given."""
        check_views_kept(self.views_kept, views)
        return self.views_kept

    def check_options(self) -> None:
        """Validate the vote."""
        check_vote(self.vote)
        super().check_options()

    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` of the plain view and of the vote, and fallbacks ``(E,)``."""
        outcome = stss(
            views.features,
            self.text,
            self.neighbour_text_features,
            self.clip.logit_scale,
            views_kept=self.views_kept,
            sharpness=self.flatness.sharpness,
            vote=self.vote,
        )
        return outcome.before, outcome.after, outcome.fallback
