"""TPT (Shu et al., NeurIPS 2022, arXiv 2209.07511): the prompt's context vectors, tuned for each image.

For each test image: take the most confident views (section 3.2), make one or a few steps on the context with the
marginal entropy of those views (eq. 2), classify the plain view with the tuned prompt, forget everything. The views
are selected once, before the first step.

    loss = H(mean_i p_i),  i in the confident views;  p_i = softmax(scale * image_i . text(context))

The authors' loop encodes the views at every step, and all classes' texts, 77 tokens each, twice for one step. Here the
views are encoded once, without a graph. All images start from the same context, so the texts of the first step are
encoded once for all of them; each image then has its own product of its own gradient with that one graph. All of this
is exact.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorattt.episodes.engine import Observer, adapt, fall_back
from lorattt.episodes.optim import OptimiserSpec
from lorattt.inputs import at_least, finite
from lorattt.losses.class_texts import text_dispersion
from lorattt.losses.entropy import marginal_entropy
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.shared_views import SharedViews
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.selection import ViewScores, gather_views, select_views, selection_size

OPTIMISER = OptimiserSpec(lr=5e-3, weight_decay=0.01)
"""TPT's: AdamW with torch's default weight decay."""


@dataclass(frozen=True)
class TunedPrompts:
    """The result of tuning E episodes."""

    before: Tensor  # (E, K) float32 logits of the plain view with the initial prompt
    after: Tensor  # (E, K) float32 logits of the plain view with the tuned prompt; before where not finite
    fallback: Tensor  # (E,) bool, true where it was not
    losses: Tensor  # (steps, E)
    selected: Tensor  # (E, n) int64, the views in the loss, most confident first
    context: Tensor  # (E, M, d) the tuned context, (E, K, M, d) if class-specific


@dataclass(frozen=True)
class TPTEngine:
    """The method on features, without Lightning; see :class:`TPT`."""

    prompts: ClassPrompts
    context: Tensor  # (M, d) float32, where every image starts; (K, M, d) if class-specific
    selection: float = 0.1
    optimiser: OptimiserSpec = OPTIMISER
    steps: int = 1
    dispersion: float = 0.0  # weight of the texts' dispersion, subtracted from the loss; 0 for TPT

    def __post_init__(self) -> None:
        """Validate the number of steps."""
        at_least(0, steps=self.steps)

    def run(
        self,
        features: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        *,
        scores: ViewScores | None = None,
        observer: Observer | None = None,
    ) -> TunedPrompts:
        """Tune the prompt to E images and classify them.

        Args:
            features: ``(E, V, D)`` unit image features of the views; view 0 is the plain one.
            text: ``(K, D)`` unit class features of the initial context.
            logit_scale: Scalar factor on cosines.
            scores: Ranks views, lowest score first; None for the entropy of their logits.
            observer: Called at each step with losses and gradients.
        """
        episodes = len(features)
        view_logits = logit_scale * features @ text.T
        size = selection_size(features.shape[1], self.selection)
        selected = select_views(view_logits, size, scores and scores(features, view_logits))
        confident = gather_views(features, selected)
        context = self.context.detach().expand(episodes, *self.context.shape).clone().requires_grad_()

        def objective(step: int) -> Tensor:
            # At the first step all contexts are equal.
            tuned: Tensor = _FanOut.apply(context, self.prompts) if step == 0 else self.prompts.features(context)
            loss = marginal_entropy(logit_scale * confident @ tuned.mT)
            return loss - self.dispersion * text_dispersion(tuned) if self.dispersion else loss

        steps, optimiser = self.steps, self.optimiser
        adaptation = adapt(
            {"context": context}, objective, episodes=episodes, steps=steps, optimiser=optimiser, observer=observer
        )
        context, before = context.detach(), view_logits[:, 0]
        after = before
        if steps:
            with torch.no_grad():
                after = logit_scale * (self.prompts.features(context) @ features[:, 0].unsqueeze(-1)).squeeze(-1)
        before, after, fallback = fall_back(before, after, adaptation.finite)
        return TunedPrompts(before, after, fallback, losses=adaptation.losses, selected=selected, context=context)


class _FanOut(torch.autograd.Function):
    """Texts of E equal contexts, encoded once: backwards, each episode's gradient goes through the one graph alone."""

    @staticmethod
    def forward(ctx: Any, context: Tensor, prompts: ClassPrompts) -> Tensor:
        """``(E, K, D)``, a row of the same values for each episode."""
        with torch.enable_grad():
            start = context[0].detach().requires_grad_()
            text = prompts.features(start)
        ctx.encoding = start, text
        return text.detach().expand(len(context), -1, -1).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """``(E, K, D)`` to ``(E, M, d)``."""
        start, text = ctx.encoding
        rows = [torch.autograd.grad(text, start, row, retain_graph=True)[0] for row in gradient]
        return torch.stack(rows), None


class TPT(RankedViews):
    """TPT as a LightningModule; defaults are those of the authors' code for ImageNet and its variants.

    Args:
        prompt: Where the context comes from: words, or the file of a learned prompt (TPT + CoOp).
        views: How the views of an image are made; AugMix is on for fine-grained sets in the authors' code.
        selection: Fraction of views that take part in the loss, the most confident ones.
        optimiser: Element-wise optimiser of each episode.
        steps: Optimisation steps per image; 0 gives zero-shot predictions.
        **kwargs: See :class:`RankedViews`.
    """

    name: ClassVar[str] = "tpt"
    needs_gradient: ClassVar[bool] = True
    dispersion: float = 0.0

    def __init__(
        self,
        *,
        prompt: PromptSpec = PromptSpec(),
        views: ViewSpec = ViewSpec(),
        selection: float = 0.1,
        optimiser: OptimiserSpec = OPTIMISER,
        steps: int = 1,
        **kwargs: Any,
    ) -> None:
        self.selection, self.optimiser, self.steps = selection, optimiser, steps
        super().__init__(prompt=prompt, templates="single", views=views, **kwargs)

    def check_options(self) -> None:
        """Validate the number of steps, and the weight of the texts' dispersion in C-TPT."""
        at_least(0, steps=self.steps)
        finite(dispersion=self.dispersion)
        super().check_options()

    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` before and after tuning, and fallbacks ``(E,)``."""
        prompts, context = self.learnable()
        engine = TPTEngine(
            prompts, context, self.selection, optimiser=self.optimiser, steps=self.steps, dispersion=self.dispersion
        )
        outcome = engine.run(views.features, self.text, self.clip.logit_scale, scores=self.view_scores)
        return outcome.before, outcome.after, outcome.fallback
