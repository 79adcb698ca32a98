"""The ascent step and the mixed gradient, against their formulas."""

import math

import pytest
import torch

from lorattt.losses.gradients import ascent_step, sharpness_gradient


def _draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(4, 16), (7, 4, 16)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_step_has_length_rho_over_the_whole_block(shape: tuple[int, ...], scale: float) -> None:
    gradient = scale * _draw(*shape)
    step = ascent_step(gradient, 0.5)
    norm = math.sqrt(sum(value**2 for value in gradient.double().flatten().tolist()))
    assert torch.allclose(step.double(), 0.5 * gradient.double() / norm, rtol=1e-5)
    assert float(torch.linalg.vector_norm(step)) == pytest.approx(0.5, rel=1e-5)


def test_no_step_without_gradient_or_radius() -> None:
    assert not ascent_step(torch.zeros(4, 8), 0.5).any()
    assert not ascent_step(_draw(4, 8), 0.0).any()


def test_it_is_the_worst_step_of_a_linear_loss() -> None:
    gradient = _draw(4, 8, dtype=torch.float64)
    best = float((gradient * ascent_step(gradient, 0.3)).sum())
    others = _draw(500, 4, 8, seed=1, dtype=torch.float64)
    others = 0.3 * others / torch.linalg.vector_norm(others, dim=(1, 2), keepdim=True)
    assert float((gradient * others).sum((1, 2)).max()) < best
    assert best == pytest.approx(0.3 * float(torch.linalg.vector_norm(gradient)))


@pytest.mark.parametrize("sharpness", [0.0, 0.3, 0.5, 1.0, 2.5])
def test_mix_identity(sharpness: float) -> None:
    """Gradient of f(p) + sharpness * (f(p + e) - f(p)), by autograd."""
    p = _draw(4, 8, dtype=torch.float64).requires_grad_()
    e = 0.1 * _draw(4, 8, seed=1, dtype=torch.float64)
    matrix = _draw(8, 8, seed=2, dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.cosh(x @ matrix).log().sum()

    (plain,) = torch.autograd.grad(f(p), p)
    (ascended,) = torch.autograd.grad(f(p + e), p)
    (whole,) = torch.autograd.grad(f(p) + sharpness * (f(p + e) - f(p)), p)
    assert torch.allclose(sharpness_gradient(plain, ascended, sharpness), whole, atol=1e-12)


def test_the_ends_and_equal_gradients_are_exact() -> None:
    plain, ascended = _draw(4, 8), 1e4 * _draw(4, 8, seed=1)
    assert torch.equal(sharpness_gradient(plain, ascended, 0.0), plain)
    assert torch.equal(sharpness_gradient(plain, ascended, 1.0), ascended)
    for sharpness in (0.1, 0.3, 0.7, 1.9):
        assert torch.equal(sharpness_gradient(plain, plain, sharpness), plain)


def test_what_is_not_finite_stays_so() -> None:
    """A loss scaler must see an overflow of either pass."""
    overflow = torch.tensor([float("inf"), 1.0])
    assert not sharpness_gradient(overflow, torch.ones(2), 1.0).isfinite().all()
    assert not sharpness_gradient(torch.ones(2), overflow, 1.0).isfinite().all()
    assert not ascent_step(overflow, 0.5).isfinite().all()
