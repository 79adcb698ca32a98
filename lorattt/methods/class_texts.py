"""The class texts of a run, which its methods share: each prompt is read and tokenised once, each text encoded once."""

from collections.abc import Hashable, Sequence
from typing import TypeAlias

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lorattt.clip.model import Clip
from lorattt.errors import UserError, quoted
from lorattt.inputs import are_codes, check_order, pairs
from lorattt.prompts.class_prompts import ClassPrompts, neighbour_features
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.views.selection import FlatnessSpec

TextSource: TypeAlias = str | list[str] | PromptSpec
"""A named set of templates, one or several templates, or a prompt."""


class ClassTexts:
    """The texts of K class names, in label order. What is made once is kept, and follows the model to any device.

    ``seed`` is for random context vectors and for directions to a prompt's neighbours.
    """

    def __init__(self, clip: Clip, names: Sequence[str], seed: int) -> None:
        self.clip, self.names, self.seed = clip, list(names), seed
        first: dict[str, int] = {}
        self._first_of_name = torch.tensor([first.setdefault(name, number) for number, name in enumerate(names)])
        self.repeats = len(first) < len(self.names)  # a name occurs more than once
        self._prompts: dict[PromptSpec, tuple[ClassPrompts, Tensor]] = {}
        self._encoded: dict[Hashable, Tensor] = {}

    def prompt(self, spec: PromptSpec) -> tuple[ClassPrompts, Tensor]:
        """The class names and the context of a prompt, ``(M, d)`` or, if class-specific, ``(K, M, d)`` float32."""
        if spec not in self._prompts:
            found = build_prompt(spec, self.clip, self.names, self.seed)
            specific = found.class_specific
            prompts = ClassPrompts(self.clip, self.names, found.position, found.tokens, class_specific=specific)
            self._prompts[spec] = prompts, found.context
        prompts, context = self._prompts[spec]
        self._prompts[spec] = prompts, context.to(self.clip.mean.device)
        return self._prompts[spec]

    @torch.no_grad()
    def features(self, source: TextSource) -> Tensor:
        """``(K, D)`` float32 unit class features on the model's device."""
        key = tuple(source) if isinstance(source, list) else source
        if key not in self._encoded:
            if isinstance(source, PromptSpec):
                prompts, context = self.prompt(source)
                self._encoded[key] = prompts.features(context)
            else:
                self._encoded[key] = self.clip.text_features(self.names, source)
        return self._on_device(key)

    def neighbours(self, spec: PromptSpec, flatness: FlatnessSpec) -> Tensor:
        """``(R, K, D)`` unit class features of a prompt's neighbours, on the model's device."""
        key = (spec, flatness.directions, flatness.radius)
        if key not in self._encoded:
            count, radius = flatness.directions, flatness.radius
            found = neighbour_features(*self.prompt(spec), directions=count, radius=radius, seed=self.seed)
            self._encoded[key] = found
        return self._on_device(key)

    def _on_device(self, key: Hashable) -> Tensor:
        self._encoded[key] = self._encoded[key].to(self.clip.mean.device)
        return self._encoded[key]

    def level(self, logits: Tensor) -> Tensor:
        """``(E, K)`` logits with no class above the first class of the same name.

        Classes of one name have the same text, but their logits may differ in the last bit, and do so in a batch of
        one image: the predicted class would then depend on the batch.
        """
        self._first_of_name = self._first_of_name.to(logits.device)
        return logits.minimum(logits[:, self._first_of_name])


def agree_on_classes(own: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The class names of a run: the model's own, else those that the data knows.

    Where the model's own names differ from the data's, a warning lists the pairs: only their order matches them.
    """
    if own is None:
        if are_codes(known):
            rank_zero_warn(
                f"the classes are called {quoted(known[0])} and the like, which says nothing to the model: give names "
                "in data.class_names (imagenet, for folders named by wnid)"
            )
        return list(known)
    if blank := [number for number, name in enumerate(own, 1) if not name.strip()]:
        raise UserError(f"model.class_names: name {blank[0]} is blank: give every class a name")
    if known and len(own) != len(known):
        raise UserError(
            f"model.class_names has {len(own)} names but the dataset has {len(known)} classes: "
            "leave it null to take the dataset's, or give one name per class"
        )
    if known:
        check_order("model.class_names", known, own, "give the names in that order, or leave it null")
        if differing := pairs(known, own):
            rank_zero_warn(f"model.class_names go to the data's classes one by one: {differing}")
    return list(own)
