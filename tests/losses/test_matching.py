"""The cosine of gradients and the direction in which it changes, against autograd."""

import pytest
import torch
from torch import Tensor

from lorattt.losses.gradients import gradient_cosine, matching_direction, matching_loss


def drawn(*seeds: int) -> list[Tensor]:
    return [torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e5])
def test_the_direction_is_autograds(scale: float) -> None:
    target, gradient = drawn(0, 1)
    gradient = (scale * gradient).requires_grad_()
    (expected,) = torch.autograd.grad(matching_loss(target, gradient), gradient)
    ours = matching_direction(target, gradient.detach())
    assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-12 / scale)
    assert abs(float((ours * gradient).sum())) < 1e-12
    # Both sides: the other direction is that of the other one.
    target = target.requires_grad_()
    (expected,) = torch.autograd.grad(matching_loss(target, gradient.detach()), target)
    assert torch.allclose(matching_direction(gradient.detach(), target.detach()), expected, rtol=1e-9)


def test_derivatives() -> None:
    target, gradient = (x.requires_grad_() for x in drawn(0, 1))
    assert torch.autograd.gradcheck(matching_loss, (target, gradient))
    assert torch.autograd.gradgradcheck(matching_loss, (target, gradient))


def test_values() -> None:
    target, gradient = drawn(0, 1)
    flat = torch.dot(target.flatten(), gradient.flatten()) / (target.norm() * gradient.norm())
    assert float(gradient_cosine(target, gradient)) == pytest.approx(float(flat), rel=1e-12)
    assert float(gradient_cosine(target, 3 * target)) == pytest.approx(1)
    assert float(matching_loss(target, -target)) == pytest.approx(2)
    assert matching_direction(target, 2 * target).abs().max() < 1e-15


def test_a_gradient_of_zeros_is_neither_alike_nor_unlike() -> None:
    target, zero = drawn(0)[0], torch.zeros(3, 4, 5, dtype=torch.float64)
    for first, second in ((target, zero), (zero, target), (zero, zero)):
        assert float(gradient_cosine(first, second)) == 0
        assert float(matching_loss(first, second)) == 1
        assert matching_direction(first, second).isfinite().all()
    assert not matching_direction(zero, target).any()
