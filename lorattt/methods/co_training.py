"""One step of Self-TPT's first stage, without images, optimiser or devices: three losses, and their gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.methods.class_contrast import ContrastiveTask
from lorattt.methods.gradient_matching import GradientMatching
from lorattt.prompts.class_views import ClassView, ClassViews, mean_of_class_views
from lorattt.prompts.learner import ClassPrompts

ClassifyBy = Literal["end", "mean"]


class Weights(NamedTuple):
    """Of cross-entropy, contrast and gradient matching."""

    ce: float
    contrast: float
    matching: float


@dataclass(frozen=True)
class CoTraining:
    """The losses of a prompt's context, by which it and the head are learned together.

    A context is ``(M, d)``, or ``(U, M, d)`` with one for each of the U learned views.

    Args:
        prompts: The class names behind a context.
        views: The class names in their views.
        logits: Image and class features to logits.
        classify_by: Images are compared with the view ``end``, or with the mean over the views.
        weights: Of the losses.
        task: The contrast; null where neither it nor gradient matching counts.
        matching: Gradient matching; null where it does not count.
    """

    prompts: ClassPrompts
    views: ClassViews
    logits: Callable[[Tensor, Tensor], Tensor]
    classify_by: ClassifyBy
    weights: Weights
    task: ContrastiveTask | None = None
    matching: GradientMatching | None = None

    @property
    def needs_images(self) -> bool:
        """Whether a step needs image features."""
        return bool(self.weights.ce) or self.matching is not None

    def learned(self, context: Tensor) -> list[Tensor]:
        """The context, and the head's parameters where there is one."""
        return [context, *(() if self.task is None else self.task.head.parameters())]

    def end_of(self, context: Tensor) -> Tensor:
        """``(M, d)``, the context of the view ``end``."""
        return context if context.dim() == 2 else context[self.views.learned.index("end")]

    def classified(self, context: Tensor) -> tuple[Tensor, dict[ClassView, Tensor]]:
        """``(K, D)`` unit features that images are compared with; and ``(K, D)`` of each view that they took."""
        if self.classify_by == "mean":
            features = self.views.features(context)
            return mean_of_class_views(features), dict(zip(self.views.views, features.unbind(1), strict=True))
        end = self.prompts.features(self.end_of(context))
        return end, {"end": end} if "end" in self.views.views else {}

    def step(
        self,
        context: Tensor,
        features: Tensor | None,
        label: Tensor,
        *,
        classes: Tensor | None,
        mean: Callable[[Tensor], Tensor],
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Gradients of the weighted loss, for each of :meth:`learned`, and the losses; all without a graph.

        Moves the running sums of gradient matching on by a step.

        Args:
            context: What is learned.
            features: ``(B, D)`` unit image features without a graph; null where no image could be read, or none is
                needed. The cross-entropy is 0 then.
            label: ``(B,)`` int64.
            classes: ``(n,)`` int64, the classes that are contrasted; null for all.
            mean: Average over devices.
        """
        matching, learned = self.matching, self.learned(context)
        exact = matching is not None and matching.exact
        terms: dict[str, Tensor] = {}
        weighted: list[tuple[float, Sequence[Tensor]]] = []
        known: dict[ClassView, Tensor] = {}
        by_ce: Sequence[Tensor] = ()
        if self.needs_images:
            terms["ce"], known = self._cross_entropy(context, features, label)
            graph = exact and matching is not None and matching.symmetric
            # Where there is a contrast, it has a part of the graph: the views that are known.
            by_ce = torch.autograd.grad(terms["ce"], context, create_graph=graph, retain_graph=self.task is not None)
            weighted.append((self.weights.ce, by_ce))
        if self.task is not None:
            if classes is not None:
                known = {view: each[classes] for view, each in known.items()}
            terms["contrast"] = self.task.loss(context, classes=classes, known=known)
            by_contrast = torch.autograd.grad(terms["contrast"], learned, create_graph=exact)
            weighted.append((self.weights.contrast, by_contrast))
            if matching is not None:
                ce_at = partial(self._ce_gradients, features, label)
                contrast_at = partial(self._contrast_gradients, self.task, classes)
                products, found = matching.step(learned, by_ce[0], by_contrast[0], ce_at, contrast_at, mean=mean)
                terms |= found
                weighted.append((self.weights.matching, products))
        terms = {name: value.detach() for name, value in terms.items()}
        factors = self.weights._asdict()
        terms["loss"] = torch.stack([factors[name] * terms[name] for name in factors if name in terms]).sum()
        totals = [torch.zeros_like(parameter) for parameter in learned]
        for factor, parts in weighted:
            for total, part in zip(totals, parts, strict=False) if factor else ():  # the first has none for the head
                total.add_(part.detach(), alpha=factor)
        return totals, terms

    def _cross_entropy(
        self, context: Tensor, features: Tensor | None, label: Tensor
    ) -> tuple[Tensor, dict[ClassView, Tensor]]:
        """CoOp's loss with a context, and the views that it took."""
        text, known = self.classified(context)
        if features is None:
            return 0 * text.sum(), known
        return F.cross_entropy(self.logits(features, text), label), known

    def _ce_gradients(self, features: Tensor | None, label: Tensor, context: Tensor) -> Sequence[Tensor]:
        """Of the cross-entropy at another context, by it."""
        point = context.requires_grad_()
        return torch.autograd.grad(self._cross_entropy(point, features, label)[0], point)

    def _contrast_gradients(self, task: ContrastiveTask, classes: Tensor | None, context: Tensor) -> Sequence[Tensor]:
        """Of the contrast at another context, by it and by the head's parameters."""
        point = context.requires_grad_()
        return torch.autograd.grad(task.loss(point, classes=classes), self.learned(point))
