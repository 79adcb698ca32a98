"""Gradient matching on two small functions against autograd through the written-out loss."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.errors import UserError
from lorattt.methods.gradient_matching import Derivative, GradientMatching, check_second_derivatives, exact_product

TARGETS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def followed(p: Tensor, step: int) -> Tensor:
    return (p.tanh() * TARGETS[step]).sum() ** 2


def turned(p: Tensor, w: Tensor) -> Tensor:
    return ((w @ p).sin() ** 2).sum()


@pytest.mark.parametrize("derivative", ["exact", "finite"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("ema", [0.0, 0.8])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_autograd_over_three_steps(derivative: Derivative, symmetric: bool, ema: float, masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    only = torch.tensor([1.0, 0, 1, 1], dtype=torch.float64) if masked else None
    matching = GradientMatching(
        torch.zeros(4, dtype=torch.float64), ema=ema, derivative=derivative, symmetric=symmetric, only=only
    )
    past = [torch.zeros(4, dtype=torch.float64)] * 2
    for step in range(3):
        p = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
        (first,) = torch.autograd.grad(followed(p, step), p, create_graph=True)
        (second,) = torch.autograd.grad(turned(p, w), p, create_graph=True)

        mask = 1.0 if only is None else only
        target, moving = ema * past[0] + first * mask, second * mask
        moving = ema * past[1] + moving if symmetric else moving
        loss = 1 - F.cosine_similarity(target if symmetric else target.detach(), moving, dim=0)
        expected = torch.autograd.grad(loss, [p, w], retain_graph=True)
        past = [target.detach(), moving.detach()]
        cosine = F.cosine_similarity((first * mask).detach(), (second * mask).detach(), dim=0)

        losses = partial(followed, step=step), partial(turned, w=w)
        products, terms = matching.step([p, w], first, second, *losses, mean=lambda x: x)
        for ours, theirs in zip(products, expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-8)
        assert float(terms["matching"]) == pytest.approx(float(loss.detach()))
        assert float(terms["cosine"]) == pytest.approx(float(cosine))


def test_an_exact_product_holds_the_direction_fixed() -> None:
    """Of a quadratic, the product with its matrix."""
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    point = torch.tensor([0.5, -1.0]).requires_grad_()
    (gradient,) = torch.autograd.grad(0.5 * point @ matrix @ point, point, create_graph=True)
    direction = (2 * point).clone()  # with a graph, which must not count
    assert torch.allclose(exact_product(gradient, direction, [point])[0], matrix @ direction)


def test_devices_agree_on_the_first_gradient() -> None:
    matching = GradientMatching(torch.zeros(2), ema=0.5)
    p = torch.ones(2).requires_grad_()
    (second,) = torch.autograd.grad((p**3).sum(), p, create_graph=True)
    given = torch.tensor([1.0, 2.0])
    matching.step([p], given, second, torch.sum, torch.sum, mean=lambda x: x.mul_(10))
    assert torch.equal(matching.target, torch.tensor([10.0, 20.0]))
    assert torch.equal(given, torch.tensor([1.0, 2.0]))  # a reduction in place is none of the caller's
    assert set(matching.state_dict()) == {"target"}
    assert set(GradientMatching(torch.zeros(2), ema=0, symmetric=True).state_dict()) == {"target", "moving"}


class Silent(torch.autograd.Function):
    """A fused kernel of which autograd leaves the second derivative out, without a word."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * ctx.saved_tensors[0].cos()  # type: ignore[attr-defined]


class Loud(Silent):
    """One that says so."""

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:  # type: ignore[override]
        if g.requires_grad:
            raise RuntimeError("derivative is not implemented\nmore")
        return g * ctx.saved_tensors[0].cos()  # type: ignore[attr-defined]


def test_losses_without_second_derivatives() -> None:
    p = torch.tensor([0.5, 1.0, 2.0])
    check_second_derivatives(lambda x: (x**3).sin().sum(), p)
    for kernel, reason in ((Silent, "are wrong, by its kernels"), (Loud, r"\(derivative is not implemented\)")):
        with pytest.raises(UserError, match=f"{reason}: use model.derivative finite") as error:
            check_second_derivatives(lambda x, kernel=kernel: (kernel.apply(x**3) ** 2).sum(), p)
        assert "\n" not in str(error.value)
