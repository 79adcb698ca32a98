"""Sharpness-aware steps: where the loss of a prompt grows fastest nearby, and the gradient that minds it."""

import torch
from torch import Tensor

_LEAST_NORM = 1e-12


def ascent_step(gradient: Tensor, rho: float) -> Tensor:
    """The step of length ``rho`` along the gradient: the worst one in an L2 ball, to first order.

    SAM (Foret et al., ICLR 2021, section 2); SAPT's eq. 4. All axes count as one vector.

    Args:
        gradient: Any shape, of all that is learned together.
        rho: Radius of the ball.

    Returns:
        Like ``gradient``, of L2 norm ``rho``; zeros where the gradient is 0, NaN where it is not finite.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return rho * gradient / (norm + _LEAST_NORM)


def sharpness_gradient(plain: Tensor, ascended: Tensor, sharpness: float) -> Tensor:
    """Gradient of ``loss(p) + sharpness * (loss(p + e) - loss(p))``, with ``e`` held fixed: SAPT's eq. 3.

    It is ``(1 - sharpness) * plain + sharpness * ascended``, exactly ``ascended`` at 1, exactly ``plain`` at 0, and
    exactly both where they are equal.

    Args:
        plain: Gradient at ``p``.
        ascended: Gradient at ``p + e``, of the same shape.
        sharpness: Weight of the increase.

    Returns:
        Like ``plain``; not finite where either gradient is not.
    """
    mixed: Tensor = torch.lerp(plain, ascended, sharpness)
    return mixed
