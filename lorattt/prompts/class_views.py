"""The views of a class that Self-TPT (Zhu et al., arXiv 2408.05775) contrasts.

One context with the class name before, within and behind it, and a text that is written by hand and has no graph.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.model import Clip
from lorattt.clip.text import SINGLE
from lorattt.errors import UserError, quoted
from lorattt.prompts.class_prompts import ClassPrompts

ClassView = Literal["front", "middle", "end", "hand"]
CLASS_VIEWS: tuple[ClassView, ...] = ("front", "middle", "end", "hand")
ClassifyBy = Literal["end", "mean"]
"""What images are compared with: the view ``end``, or the mean over the views."""


class ClassViews:
    """N classes in V prompts each, of M (``tokens``) context vectors; ``template`` is the text of the view ``hand``."""

    def __init__(
        self,
        clip: Clip,
        class_names: Sequence[str],
        tokens: int,
        *,
        views: Sequence[ClassView] = CLASS_VIEWS,
        template: str = SINGLE,
    ) -> None:
        check_class_views(views)
        self.views = tuple(views)
        self.count = len(class_names)
        # As the learned views read names, so that with the words of the template they are the same texts.
        self._clip, self._names, self._template = clip, [name.replace("_", " ") for name in class_names], template
        self._end = ClassPrompts(clip, class_names, "end", tokens)
        self._prompts = {view: self._end.at(view) for view in views if view != "hand"}
        self._hand: Tensor | None = None
        if "hand" in views:
            check_template(template)

    @property
    def learned(self) -> tuple[ClassView, ...]:
        """The views that the context takes part in, in the order of a context that is separate for each."""
        return tuple(self._prompts)

    @property
    def hand(self) -> Tensor:
        """``(N, D)`` float32 unit features of the fixed texts, encoded once."""
        if self._hand is None:
            with torch.no_grad():
                self._hand = self._clip.text_features(self._names, [self._template])
        self._hand = self._hand.to(self._clip.text_tower.device)
        return self._hand

    def features(
        self,
        context: Tensor,
        *,
        classes: Tensor | None = None,
        known: Mapping[ClassView, Tensor] | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """``(n, V, D)`` unit class features in all views, float32, or float64 if the context or the tower is.

        Args:
            context: ``(M, d)``, which all learned views share; or ``(U, M, d)``, one for each of the U learned ones.
            classes: ``(n,)`` int64, some of the classes, each once; all where null.
            known: Features ``(n, D)`` of views that are encoded already.
            chunk: Sequences encoded at a time, of which the graph keeps the input alone and computes the rest again;
                null for what the memory suggests. The result is the same.
        """
        parts: dict[ClassView, Tensor] = dict(known or {})
        for place, (view, prompts) in enumerate(self._prompts.items()):
            if view not in parts:
                some = prompts if classes is None else prompts.take(classes)
                own = context if context.dim() == 2 else context[place]
                parts[view] = some.features(own, chunk=chunk, checkpointed=True if chunk else None)
        if "hand" in self.views and "hand" not in parts:
            parts["hand"] = self.hand if classes is None else self.hand[classes.to(self.hand.device)]
        kind = torch.promote_types(parts[self.learned[0]].dtype, torch.float32)
        return torch.stack([parts[view].to(kind) for view in self.views], dim=1)

    def context_of_end(self, context: Tensor) -> Tensor:
        """``(M, d)``, the context of the view ``end``."""
        return context if context.dim() == 2 else context[self.learned.index("end")]

    def classifier(
        self, context: Tensor, by: ClassifyBy, *, chunk: int | None = None
    ) -> tuple[Tensor, dict[ClassView, Tensor]]:
        """``(N, D)`` unit features that images are compared with, and the ``(N, D)`` of each view behind them."""
        if by == "mean":
            features = self.features(context, chunk=chunk)
            return F.normalize(features.mean(dim=1), dim=-1), dict(zip(self.views, features.unbind(1), strict=True))
        end = self._end.features(self.context_of_end(context), chunk=chunk)
        return end, {"end": end} if "end" in self.views else {}


def check_class_views(views: Sequence[str], key: str = "class_views") -> None:
    """Require at least two known views, each once, and a learned one among them."""
    for view in views:
        if view not in CLASS_VIEWS:
            raise UserError(f"{key}: {quoted(view)} is none of {', '.join(CLASS_VIEWS)}")
    if len(set(views)) != len(views):
        raise UserError(f"{key} {quoted(list(views))}: name each view once")
    if len(views) < 2:
        raise UserError(f"{key} {quoted(list(views))}: at least two are needed, to have something to compare")


def check_template(template: str, key: str = "template") -> None:
    """Require exactly one place for the class name."""
    if template.count("{}") != 1:
        raise UserError(f"{key} {quoted(template)}: must have exactly one {{}}, where the class name goes")
