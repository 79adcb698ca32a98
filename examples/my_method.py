"""A method of one's own: each image moves the class texts a little, until its confident views agree."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.episodes.engine import adapt, fall_back
from lorattt.episodes.optim import OptimiserSpec
from lorattt.losses.entropy import marginal_entropy
from lorattt.methods.base import Method
from lorattt.methods.shared_views import SharedViews
from lorattt.views.selection import gather_views, select_confident, selection_size


class TextShift(Method):
    """Test-time training of the class texts, a shift for each class and each image.

    Args:
        selection: Fraction of views that take part, the most confident ones.
        lr: Learning rate of AdamW.
        steps: Optimisation steps per image; 0 gives zero-shot predictions.
        **kwargs: ``clip``, ``class_names``, ``templates``, ``prompt``, ``views``, ``seed``, as all methods have them.
    """

    name: ClassVar[str] = "text_shift"
    needs_gradient: ClassVar[bool] = True

    def __init__(self, *, selection: float = 0.1, lr: float = 0.003, steps: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = selection_size(self.views.number, selection)
        self.optimiser = OptimiserSpec(name="adamw", lr=lr, weight_decay=0.0)
        self.steps = steps

    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits before and after ``(E, K)``, and which images fell back ``(E,)``."""
        features, scale = views.features, self.clip.logit_scale  # (E, V, D), without a graph
        logits = scale * features @ self.text.T  # (E, V, K)
        chosen = gather_views(features, select_confident(logits, self.size))  # (E, n, D)
        # One slice for each of the E images: (E, K, D).
        shift = self.text.new_zeros(len(views), *self.text.shape).requires_grad_()

        def moved() -> Tensor:
            return F.normalize(self.text + shift, dim=-1)

        def loss(step: int) -> Tensor:
            return marginal_entropy(scale * chosen @ moved().mT)  # (E,): one value an image, no mean over images

        done = adapt({"shift": shift}, loss, episodes=len(views), steps=self.steps, optimiser=self.optimiser)
        with torch.no_grad():
            after = scale * (features[:, :1] @ moved().mT).squeeze(1)
        return fall_back(logits[:, 0], after, done.finite)
