"""Gradient matching of Self-TPT: the gradient of one loss is turned towards that of another.

    L = 1 - cos(G, C),  G = ema * G + dL_1/dp,  C = dL_2/dp,  G held fixed

Its gradient is a product of the second derivatives of L_2 with u = dL/dC, which is not differentiated. ``symmetric``
sums up both gradients and differentiates both: then C = ema * C + dL_2/dp, and a product with the second derivatives of
L_1 is added. Sums need no normalising, since a cosine has no scale.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lorattt.errors import UserError, first_line
from lorattt.losses.gradients import gradient_cosine, matching_direction, matching_loss

Derivative = Literal["exact", "finite"]
Loss = Callable[[Tensor], Tensor]
FIX = "use model.derivative finite, which needs none, or model.matching_weight 0"
_WRONG = 0.2  # relative; rounding in float32 makes about a thousandth


class GradientMatching(nn.Module):
    """The loss, its derivative, and the running sums, which a checkpoint must hold.

    ``like`` is the parameter that both losses have. Gradients are multiplied with ``only`` before they are compared: 0
    where one of them is always 0.
    """

    target: Tensor
    moving: Tensor | None
    only: Tensor | None

    def __init__(
        self,
        like: Tensor,
        *,
        ema: float,
        derivative: Derivative = "exact",
        symmetric: bool = False,
        only: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.ema, self.exact, self.symmetric = ema, derivative == "exact", symmetric
        self.register_buffer("target", torch.zeros_like(like, requires_grad=False))
        self.register_buffer("moving", torch.zeros_like(like, requires_grad=False) if symmetric else None)
        self.register_buffer("only", only, persistent=False)

    def step(
        self,
        parameters: Sequence[Tensor],
        first: Tensor,
        second: Tensor,
        first_loss: Loss,
        second_loss: Loss,
        *,
        mean: Callable[[Tensor], Tensor],
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Move the sums on by a step; differentiate the loss.

        Args:
            parameters: What the loss is differentiated by; the first is the one that both losses have.
            first: Gradient by it of the loss that is followed; if exact and symmetric, with its graph.
            second: Gradient by it of the loss that is turned, the same on all devices; if exact, with its graph.
            first_loss: The former loss at another value of the first parameter; read, as the next, if not exact.
            second_loss: The latter loss.
            mean: Average over devices. The cosine of a mean is no mean of cosines.

        Returns:
            A gradient for each parameter, whose mean over devices is that of the whole batch; and the terms
            ``matching``, the loss, and ``cosine``, of the two gradients of this step alone.
        """
        only = 1.0 if self.only is None else self.only
        target, moving = mean(first.detach().clone()) * only, second.detach() * only
        terms = {"cosine": gradient_cosine(target, moving)}
        target = self.target.mul_(self.ema).add_(target).clone()
        if self.moving is not None:
            moving = self.moving.mul_(self.ema).add_(moving).clone()
        terms["matching"] = matching_loss(target, moving)
        along, back = matching_direction(target, moving), matching_direction(moving, target)
        if self.exact and self.symmetric:
            # One pass: the two gradients may share a part of their graphs, which a pass frees.
            both = torch.stack([second, first]), torch.stack([along, back])
            return exact_product(*both, parameters), terms
        if self.exact:
            return exact_product(second, along, parameters), terms
        point = parameters[0].detach()
        products = finite_product(second_loss, point, along, parameters[1:])
        if self.symmetric:
            products[0] = products[0] + finite_product(first_loss, point, back)[0]
        return products, terms


def check_second_derivatives(loss: Loss, point: Tensor) -> None:
    """Reject, before training, a model without second derivatives at that point, or with wrong ones.

    Some fused kernels raise; others drop a part of the gradient in silence, which finite differences reveal. The loss
    should be smooth, and as cheap as possible.
    """
    start = point.detach().clone().requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(loss(start), start, create_graph=True)
        (exact,) = exact_product(gradient, gradient, [start])
    except RuntimeError as error:
        reason = first_line(error, 120)
        raise UserError(f"gradient matching: the text tower has no second derivatives ({reason}): {FIX}") from error
    (finite,) = finite_product(loss, start.detach(), gradient.detach())
    if not torch.linalg.vector_norm(exact - finite) <= _WRONG * torch.linalg.vector_norm(finite):
        raise UserError(f"gradient matching: second derivatives of the text tower are wrong, by its kernels: {FIX}")


def exact_product(gradient: Tensor, direction: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The derivative of ``sum(gradient * direction)`` by each parameter, by a backward pass through the gradient.

    ``gradient`` is that of a loss by its first parameter, with its graph; ``direction`` is held fixed.
    """
    return list(torch.autograd.grad((gradient * direction.detach()).sum(), parameters))


def finite_product(loss: Loss, point: Tensor, direction: Tensor, others: Sequence[Tensor] = ()) -> list[Tensor]:
    """What :func:`exact_product` returns, by central differences of the gradient: no second derivative is taken.

    ``point`` is the value of the loss's first parameter; ``others`` are its other parameters.
    """
    size = torch.linalg.vector_norm(direction)
    # Rounding and the neglected third order are about equal near the cube root of the type's precision; the shorter the
    # step, the rarer it crosses a kink of the head's ReLU.
    relative = 0.1 * torch.finfo(point.dtype).eps ** (1 / 3)
    length = relative * torch.linalg.vector_norm(point).clamp_min(1e-6)
    unit = direction / size.clamp_min(torch.finfo(point.dtype).tiny)

    def gradients(sign: int) -> Sequence[Tensor]:
        value = (point + sign * length * unit).detach().requires_grad_()
        return torch.autograd.grad(loss(value), [value, *others])

    return [(a - b) * (size / (2 * length)) for a, b in zip(gradients(1), gradients(-1), strict=True)]
