"""The adaptation loop for E episodes at once, in plain PyTorch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorattt.episodes.optim import OptimiserSpec

Observer = Callable[[int, Tensor, Mapping[str, Tensor]], None]


@dataclass(frozen=True)
class Adaptation:
    """The result of the loop."""

    losses: Tensor  # (steps, E), the loss before each step
    finite: Tensor  # (E,) bool, false where a loss or a gradient was NaN or infinite at any step


def adapt(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    *,
    episodes: int,
    steps: int,
    optimiser: OptimiserSpec,
    reset_every_step: bool = False,
    observer: Observer | None = None,
) -> Adaptation:
    """Minimise a loss per episode over parameters that have one slice per episode, in place.

    The losses are summed for autograd, never averaged: then each episode's gradient, and so its step, is
    what it would be alone.

    Args:
        parameters: Leaves with ``requires_grad``, each ``(E, *)``.
        loss: Step number to losses ``(E,)``, each a function of its own episode's slices alone.
        episodes: E, needed where there are no steps.
        steps: How many.
        optimiser: Built afresh here: no state outlives the call.
        reset_every_step: Clear the optimiser's state before each step.
        observer: Called with the step's number, losses and gradients before the step is taken.
    """
    leaves = list(parameters.values())
    device = leaves[0].device
    history: list[Tensor] = []
    finite = torch.ones(episodes, dtype=torch.bool, device=device)
    stepper = optimiser.build(leaves)
    for step in range(steps):
        with torch.enable_grad():
            losses = loss(step)
            # A leaf that this step's loss does not reach has a gradient of zero.
            gradients = torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)
        losses = losses.detach()
        history.append(losses)
        finite &= losses.isfinite()
        for gradient in gradients:
            finite &= gradient.isfinite().flatten(1).all(dim=1)
        if observer is not None:
            observer(step, losses, dict(zip(parameters, gradients, strict=True)))
        if reset_every_step:
            stepper.state.clear()
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        stepper.step()
        stepper.zero_grad(set_to_none=True)
    return Adaptation(torch.stack(history) if history else torch.zeros(0, episodes, device=device), finite)


def fall_back(before: Tensor, after: Tensor, finite: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(E, K)`` before and after adaptation, the former in place of those after that are not finite.

    ``finite`` ``(E,)`` says where adaptation was; None for everywhere. The third tensor ``(E,)`` is true where it or
    the logits after were not.
    """
    good = after.isfinite().all(dim=-1)
    good = good if finite is None else good & finite
    return before, torch.where(good.unsqueeze(-1), after, before), ~good
