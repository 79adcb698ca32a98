"""Base class of methods that keep some of the views, ranked by confidence or by flatness."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lorattt.clip.text import SINGLE
from lorattt.errors import UserError, quoted
from lorattt.methods.base import Method
from lorattt.methods.shared_views import SharedViews
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.selection import FlatnessSpec, Rule, ViewScores, flatness_scores, select_views, selection_size


class RankedViews(Method):
    """A method that ranks its views, with the class texts of the prompt's neighbours where the rule needs them.

    Args:
        rule: Which views take part: the most confident ones, or with ``flatness`` those whose entropy stays low around
            the prompt (STSS of TLLA).
        flatness: How flatness is measured, for ``rule: flatness``.
        **kwargs: See :class:`Method`.

    Attributes:
        selection: Fraction of views that are kept; a subclass sets it, or has its own :meth:`kept_count`.
    """

    selection: float

    def __init__(self, *, rule: Rule = "confidence", flatness: FlatnessSpec = FlatnessSpec(), **kwargs: Any) -> None:
        self.rule, self.flatness = rule, flatness
        super().__init__(**kwargs)

    def check_options(self) -> None:
        """Validate the number of views kept, the rule, and that there is a prompt to measure flatness around."""
        self.kept_count(self.views.number)
        if self.rule not in ("confidence", "flatness"):
            raise UserError(f"rule {quoted(self.rule)}: must be confidence or flatness")
        if self.rule == "confidence" and self.flatness != FlatnessSpec():
            raise UserError("flatness is given, but views are ranked by confidence: set rule to flatness")
        if self.rule == "flatness" and self.prompt is None and self.templates not in ("single", [SINGLE]):
            raise UserError(
                f"rule flatness moves the vectors of a prompt, which templates {quoted(self.templates)} do not have: "
                "give model.prompt, or templates single"
            )
        super().check_options()

    def kept_count(self, views: int) -> int:
        """How many of that many views the method keeps: as many as the selection says."""
        return selection_size(views, self.selection)

    @torch.no_grad()
    def kept(self, views: SharedViews) -> Tensor | None:
        """``(E, n)`` int64, the views that the method keeps, in the order of its ranking."""
        logits, scores = self.clip.logit_scale * views.features @ self.text.T, self.view_scores
        count = self.kept_count(views.number)
        return select_views(logits, count, scores and scores(views.features, logits))

    @property
    def view_scores(self) -> ViewScores | None:
        """Scores that rank views, lowest first; None for the entropy of their logits."""
        if self.rule == "confidence":
            return None
        text, scale, sharpness = self.neighbour_text_features, self.clip.logit_scale, self.flatness.sharpness
        return partial(flatness_scores, neighbour_text=text, logit_scale=scale, sharpness=sharpness)

    @property
    def neighbour_text_features(self) -> Tensor:
        """``(R, K, D)`` unit class features of the prompt's neighbours, encoded once per class list."""
        return self.texts.neighbours(self.prompt or PromptSpec(), self.flatness)  # the words of ``single`` are a prompt

    def check_texts(self) -> None:
        """Validate the templates or the prompt, and that it has neighbours."""
        super().check_texts()
        if self.rule == "flatness":
            self.texts.prompt(self.prompt or PromptSpec())

    def _encode_classes(self) -> None:
        super()._encode_classes()
        if self.rule == "flatness":
            self.neighbour_text_features  # noqa: B018 - kept by the class texts
