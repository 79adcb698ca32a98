"""The task of Self-TPT that needs class names alone: contrast the views of a class list through a projection head."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorattt.errors import UserError
from lorattt.inputs import at_least
from lorattt.losses.contrastive import class_contrast
from lorattt.prompts.class_views import ClassView, ClassViews
from lorattt.rng import Stream, episode_keys, fold, uniform

PREFIX = "head."  # of the head's tensors in a prompt's file


@dataclass(frozen=True)
class HeadSpec:
    """The projection head's shape.

    Args:
        hidden: Width between its two layers; that of the text features where null.
        out: Width of the projections.
    """

    hidden: int | None = None
    out: int = 128

    def __post_init__(self) -> None:
        """Require a unit in each layer."""
        at_least(1, head__hidden=self.hidden, head__out=self.out)


class ProjectionHead(nn.Module):
    """Two layers with a ReLU between them; what comes out has unit length.

    The paper does not describe its head; this is the usual one of contrastive learning (SimCLR, SupCon). It is drawn
    from the seed alone, by torch's rule for linear layers.

    Args:
        width: D, the width of text features.
        hidden: Width between the layers; D where null.
        out: P, the width of projections.
        seed: The run's seed.
    """

    def __init__(self, width: int, hidden: int | None = None, out: int = 128, *, seed: int = 0) -> None:
        super().__init__()
        HeadSpec(hidden, out)  # rejects what is no shape
        hidden = width if hidden is None else hidden
        key = fold(episode_keys(seed, torch.tensor(0)), Stream.HEAD_INIT)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(key))
            self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, features: Tensor) -> Tensor:
        """``(*, D)`` features to ``(*, P)`` unit projections, of the wider of the two's types."""
        return F.normalize(self.layers(features), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights, as a prompt's file has them."""
        return {PREFIX + name: value.detach().float().cpu().clone() for name, value in self.layers.state_dict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], width: int, source: str) -> "ProjectionHead":
        """The head of a prompt's file, of which ``tensors`` are all but the context.

        Args:
            tensors: Among them a head's, see :meth:`tensors`.
            width: D, the width of the model's text features.
            source: What messages call the file.
        """
        found = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        shapes = {name: tuple(value.shape) for name, value in found.items()}
        hidden, out = (shapes.get(name, (0,))[0] for name in ("0.weight", "2.weight"))
        expected = {"0.weight": (hidden, width), "0.bias": (hidden,), "2.weight": (out, hidden), "2.bias": (out,)}
        if shapes != expected or not hidden or not out:
            raise UserError(
                f"{source}: its projection head does not fit text features of width {width}: use the model it was made "
                "for"
            )
        head = cls(width, hidden, out)
        head.layers.load_state_dict(found)
        return head


@dataclass(frozen=True)
class ContrastiveTask:
    """Contrastive prompt tuning (CPT) on a list of at least two classes.

    Args:
        views: The class list in its views.
        head: The projection head.
        temperature: What similarities are divided by.
    """

    views: ClassViews
    head: ProjectionHead
    temperature: float

    def __post_init__(self) -> None:
        """Require at least two classes."""
        check_temperature(self.temperature)
        if self.views.count < 2:
            raise UserError(
                f"the class list has {self.views.count} class: contrasting class names needs at least two; "
                "give more names, or a method that leaves the prompt alone"
            )

    def loss(
        self,
        context: Tensor,
        *,
        classes: Tensor | None = None,
        known: Mapping[ClassView, Tensor] | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """The contrastive loss of a context: a scalar in nats, which can be differentiated twice.

        The arguments are those of :meth:`ClassViews.features`.
        """
        features = self.views.features(context, classes=classes, known=known, chunk=chunk)
        return class_contrast(self.head(features), self.temperature)


def choose_classes(present: Tensor, count: int, seed: int, step: int) -> Tensor:
    """The classes that are contrasted in a step of training: those of its images, and others up to a number.

    Args:
        present: ``(K,)`` bool, whether an image of the step, on any device, is of the class.
        count: How many classes; those present in any case.
        seed: The run's seed.
        step: The step's number.

    Returns:
        ``(n,)`` int64, rising; a function of the arguments alone.
    """
    key = fold(episode_keys(seed, torch.tensor([step], device=present.device)), Stream.CONTRASTED_CLASSES)
    rank = uniform(key, (len(present),), torch.float64)[0] - present.double()  # below 0: present
    chosen: Tensor = rank.argsort(stable=True)[: max(count, int(present.sum()))].sort().values
    return chosen


def check_temperature(temperature: float) -> None:
    """Validate that the temperature is positive and finite."""
    if not 0 < temperature < float("inf"):
        raise UserError(f"model.temperature {temperature}: must be a finite number above 0")
