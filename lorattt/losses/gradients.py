"""Gradients as vectors: how far two point the same way, and sharpness-aware steps."""

import torch
from torch import Tensor

_LEAST_NORM = 1e-12


def gradient_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two gradients, all axes taken as one: a scalar of their dtype, 0 where one of them is 0."""
    product = (first * second).sum()
    norms: Tensor = torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second)
    return product / norms.clamp_min(_LEAST_NORM**2)


def matching_loss(target: Tensor, gradient: Tensor) -> Tensor:
    """One minus the cosine: Self-TPT's gradient matching (eq. 8 of the paper as its readers report it)."""
    return 1 - gradient_cosine(target, gradient)


def matching_direction(target: Tensor, gradient: Tensor) -> Tensor:
    """Derivative of :func:`matching_loss` by ``gradient``, orthogonal to it; zeros where one of the two is 0."""
    size, other = (torch.linalg.vector_norm(x).clamp_min(_LEAST_NORM) for x in (gradient, target))
    unit, aim = gradient / size, target / other
    direction: Tensor = ((unit * aim).sum() * unit - aim) / size
    return direction


def ascent_step(gradient: Tensor, rho: float) -> Tensor:
    """The step of length ``rho`` along the gradient: the worst one in an L2 ball, to first order.

    SAM (Foret et al., ICLR 2021, section 2); SAPT's eq. 4. All axes count as one vector. Zeros where the gradient is 0,
    NaN where it is not finite.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return rho * gradient / (norm + _LEAST_NORM)


def sharpness_gradient(plain: Tensor, ascended: Tensor, sharpness: float) -> Tensor:
    """Gradient of ``loss(p) + sharpness * (loss(p + e) - loss(p))``, with ``e`` held fixed: SAPT's eq. 3.

    It is ``(1 - sharpness) * plain + sharpness * ascended``, of the gradients at ``p`` and at ``p + e``: exactly
    ``ascended`` at 1, exactly ``plain`` at 0, and exactly both where they are equal.
    """
    return torch.lerp(plain, ascended, sharpness)
