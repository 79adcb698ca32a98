"""How far two gradients point the same way, and in which direction that changes."""

import torch
from torch import Tensor

_LEAST_NORM = 1e-12


def gradient_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two gradients, all axes taken as one: a scalar of their dtype, 0 where one of them is 0."""
    product = (first * second).sum()
    norms: Tensor = torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second)
    cosine: Tensor = product / norms.clamp_min(_LEAST_NORM**2)
    return cosine


def matching_loss(target: Tensor, gradient: Tensor) -> Tensor:
    """One minus the cosine: Self-TPT's gradient matching (eq. 8 of the paper as its readers report it)."""
    return 1 - gradient_cosine(target, gradient)


def matching_direction(target: Tensor, gradient: Tensor) -> Tensor:
    """Derivative of :func:`matching_loss` by ``gradient``, orthogonal to it; zeros where one of the two is 0."""
    size, other = (torch.linalg.vector_norm(x).clamp_min(_LEAST_NORM) for x in (gradient, target))
    unit, aim = gradient / size, target / other
    direction: Tensor = ((unit * aim).sum() * unit - aim) / size
    return direction
