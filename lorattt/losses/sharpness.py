"""Sharpness-aware steps: the SAM ascent step, and the combined gradient."""

import torch
from torch import Tensor

_LEAST_NORM = 1e-12


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
    mixed: Tensor = torch.lerp(plain, ascended, sharpness)
    return mixed
