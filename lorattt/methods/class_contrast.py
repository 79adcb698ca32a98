"""The task of Self-TPT that needs class names alone: contrast the views of a class list through the projection head."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorattt.errors import UserError
from lorattt.losses.contrastive import class_contrast
from lorattt.prompts.class_views import ClassView, ClassViews
from lorattt.prompts.head import ContrastHead
from lorattt.rng import Stream, episode_keys, fold, uniform


@dataclass(frozen=True)
class ContrastiveTask:
    """Contrastive prompt tuning (CPT) on a list of classes.

    Args:
        views: The class list in its views.
        head: The projection head.
        temperature: What similarities are divided by.

    Raises:
        UserError: If there are fewer than two classes, or the temperature is not positive.
    """

    views: ClassViews
    head: ContrastHead
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

        Args:
            context: ``(M, d)``, or ``(U, M, d)`` for one in each of U learned views.
            classes: ``(n,)`` int64, some of the classes; all where null.
            known: Features ``(n, D)`` of views that are there already.
            chunk: Sequences encoded at a time, again in the backward pass; null for what the memory suggests.
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
