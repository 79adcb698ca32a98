"""Zero-shot CLIP (Radford et al., ICML 2021): the plain view against the class texts. The baseline."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lorattt.methods.base import Method
from lorattt.methods.shared_views import Needs, SharedViews
from lorattt.views.crops import ViewSpec


class ZeroShot(Method):
    """Classify by the cosine of image and text features; nothing is adapted.

    Args:
        **kwargs: See :class:`Method`.
    """

    name: ClassVar[str] = "zero_shot"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(views=ViewSpec(number=1), **kwargs)

    @property
    def needs(self) -> Needs:
        """View 0 and no other."""
        return Needs(all_views=False)

    @torch.no_grad()
    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)``, twice the same, and no fallbacks."""
        logits = self.clip.logit_scale * views.plain_features @ self.text.T
        return logits, logits, torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
