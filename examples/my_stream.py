"""A method with a state: each class is compared with its text and with the mean of the images that it was given."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.methods.shared_views import Needs, SharedViews
from lorattt.methods.stream import State, StreamMethod


class ClassMeans(StreamMethod):
    """The running mean of the features of each predicted class, added to the class text.

    Args:
        weight: Weight of the mean beside the text.
        **kwargs: ``clip``, ``class_names``, ``templates``, ``prompt``, ``views``, ``seed``, as all methods have them.
    """

    name: ClassVar[str] = "class_means"

    def __init__(self, *, weight: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    @property
    def needs(self) -> Needs:
        """View 0 and no other."""
        return Needs(all_views=False)

    def init_state(self) -> State:
        """Sums ``(K, D)`` and counts ``(K, 1)`` of the features of each class."""
        return {"sums": torch.zeros_like(self.text), "counts": torch.zeros_like(self.text[:, :1])}

    @torch.no_grad()
    def step(self, state: State, views: SharedViews) -> tuple[State, Tensor]:
        """Classify one image with the means so far; then it counts for the class that was predicted."""
        feature = views.plain_features  # (1, D)
        means = state["sums"] / state["counts"].clamp(min=1)
        logits = self.clip.logit_scale * feature @ F.normalize(self.text + self.weight * means, dim=-1).T  # (1, K)
        predicted = F.one_hot(logits.argmax(-1), len(self.text)).T  # (K, 1)
        return {"sums": state["sums"] + predicted * feature, "counts": state["counts"] + predicted}, logits
