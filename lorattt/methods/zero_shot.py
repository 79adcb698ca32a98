"""Zero-shot CLIP (Radford et al., ICML 2021): the plain view against the class texts. The baseline, and the gate."""

from typing import ClassVar

import torch
from torch import Tensor

from lorattt.clip.load import ClipSpec
from lorattt.methods.base import Method, Templates
from lorattt.methods.shared_views import SharedViews
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec


class ZeroShot(Method):
    """Classify by the cosine of image and text features; nothing is adapted.

    Args:
        clip: Which CLIP to use; any image tower.
        class_names: Names in label order; the dataset's where null.
        templates: Prompt templates: ``single``, ``openai-7``, ``openai-80``, ``dataset`` for CoOp's prompt of a
            benchmark, or a text or a list of texts with one ``{}``.
        prompt: A prompt in their place, such as the file that ``fit`` wrote; null for templates.
        seed: Unused here; every method has one.
    """

    name: ClassVar[str] = "zero_shot"

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        class_names: list[str] | None = None,
        templates: Templates = "single",
        prompt: PromptSpec | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            clip=clip, class_names=class_names, templates=templates, prompt=prompt, views=ViewSpec(number=1), seed=seed
        )

    @property
    def plain_view_alone(self) -> bool:
        """It reads view 0 and no other."""
        return True

    @torch.no_grad()
    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)``, twice the same, and no fallbacks."""
        logits = self.clip.logit_scale * views.plain_features @ self.text.T
        return logits, logits, torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
