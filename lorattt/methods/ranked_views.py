"""Methods that take some of the views: which ones, by confidence or by flatness."""

from functools import partial

import torch
from torch import Tensor

from lorattt.clip.load import ClipSpec
from lorattt.clip.templates import SINGLE
from lorattt.errors import UserError, quoted
from lorattt.methods.base import Method, Templates
from lorattt.prompts.neighbours import neighbour_features
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.selection import FlatnessSpec, Rule, ViewScores, flatness_scores


class RankedViews(Method):
    """A method that ranks its views, with the class texts of the prompt's neighbours where the rule needs them.

    These are encoded once per class list, and follow the model to any device.

    Args:
        rule: ``confidence`` ranks by entropy, ``flatness`` by how high it gets around the prompt (STSS of TLLA).
        flatness: How flatness is measured, for ``rule: flatness``.
        clip: Which CLIP to use.
        class_names: Names in label order; the dataset's where null.
        templates: Prompt templates, as for :class:`Method`. Flatness is measured around the words of ``single``,
            or around the prompt in their place.
        prompt: A prompt in their place; null for templates.
        views: How the views of an image are made.
        seed: Seed of everything random; it draws the directions of the neighbours.

    Attributes:
        bank: ``(R, K, D)`` unit class features of the neighbours; empty for confidence.

    Raises:
        UserError: If the rule is of another kind, flatness is described and not asked for, or the templates are
            no words that could be moved.
    """

    bank: Tensor

    def __init__(
        self,
        *,
        rule: Rule,
        flatness: FlatnessSpec,
        clip: ClipSpec,
        class_names: list[str] | None,
        templates: Templates = "single",
        prompt: PromptSpec | None,
        views: ViewSpec,
        seed: int,
    ) -> None:
        if rule not in ("confidence", "flatness"):
            raise UserError(f"rule {quoted(rule)}: must be confidence or flatness")
        if rule == "confidence" and flatness != FlatnessSpec():
            raise UserError("flatness is given, but views are ranked by confidence: set rule to flatness")
        if rule == "flatness" and prompt is None and templates not in ("single", [SINGLE]):
            raise UserError(
                f"rule flatness moves the vectors of a prompt, which templates {quoted(templates)} do not have: "
                "give model.prompt, or templates single"
            )
        super().__init__(clip=clip, class_names=class_names, templates=templates, prompt=prompt, views=views, seed=seed)
        self.rule, self.flatness = rule, flatness
        self.register_buffer("bank", torch.empty(0), persistent=False)
        self._bank_of: object = None

    @property
    def view_scores(self) -> ViewScores | None:
        """What views are ranked by, the lowest first; None for the entropy of their logits."""
        if self.rule == "confidence":
            return None
        scale, sharpness = self.clip.logit_scale, self.flatness.sharpness
        return partial(flatness_scores, bank=self.bank, logit_scale=scale, sharpness=sharpness)

    def check_texts(self) -> None:
        """Refuse what no class texts, or no neighbours of them, can be made of.

        Raises:
            UserError: As for :meth:`Method.check_texts`; or if flatness is asked of a text tower that takes no
                prompt.
        """
        super().check_texts()
        if self.rule == "flatness" and self.prompt is None:
            self._join(PromptSpec())

    def _prepare(self) -> None:
        """Encode the class list and the neighbours of its texts, once per list, where the model now is."""
        super()._prepare()
        if self.rule == "flatness" and self._bank_of != self._text_of:
            # The words of ``single`` are a prompt's.
            prompts, context = self._join(PromptSpec()) if self.prompt is None else self.learnable()
            spec = self.flatness
            self.bank = neighbour_features(
                prompts, context, directions=spec.directions, radius=spec.radius, seed=self.seed
            )
            self._bank_of = self._text_of
