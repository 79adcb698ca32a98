"""Entropies against loops over plain floats."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lorattt.losses.entropy import entropy, marginal_entropy

BOTH = pytest.mark.parametrize("loss", [entropy, marginal_entropy])
EXTREME = torch.tensor(
    [
        [[1e4, -1e4, 0.0, 3.0], [1e4, -1e4, 1.0, 2.0]],
        [[1e4, 0.0, 0.0, 0.0], [-1e4, 0.0, 0.0, 0.0]],
        [[1e4, 1e4, 1e4, 1e4], [-1e4, -1e4, -1e4, -1e4]],
    ]
)


def logits_of(*shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def shannon(probabilities: list[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def test_entropy_matches_a_loop() -> None:
    logits = logits_of(3, 5, 7)
    expected = [[shannon(softmax(view)) for view in episode] for episode in logits.tolist()]
    torch.testing.assert_close(entropy(logits), torch.tensor(expected, dtype=torch.float64))


def test_marginal_entropy_matches_a_loop() -> None:
    logits = logits_of(3, 5, 7)
    expected = []
    for episode in logits.tolist():
        views = [softmax(view) for view in episode]
        expected.append(shannon([sum(column) / len(views) for column in zip(*views, strict=True)]))
    torch.testing.assert_close(marginal_entropy(logits), torch.tensor(expected, dtype=torch.float64))


@BOTH
def test_gradients_match_finite_differences(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, logits_of(2, 3, 4).requires_grad_())


@BOTH
def test_a_shift_of_a_view_and_the_order_of_classes_make_no_difference(loss: Callable[[Tensor], Tensor]) -> None:
    logits = logits_of(2, 4, 6)
    torch.testing.assert_close(loss(logits + logits_of(2, 4, 1, scale=50)), loss(logits))
    torch.testing.assert_close(loss(logits[..., torch.tensor([3, 1, 5, 0, 2, 4])]), loss(logits))


def test_the_order_of_views_makes_no_difference() -> None:
    logits = logits_of(2, 4, 6)
    torch.testing.assert_close(marginal_entropy(logits[:, [2, 0, 3, 1]]), marginal_entropy(logits))


def test_marginal_entropy_lies_between_the_mean_entropy_and_the_logarithm_of_the_classes() -> None:
    logits = logits_of(50, 8, 10)
    value = marginal_entropy(logits)
    assert (value >= entropy(logits).mean(-1)).all()
    assert (value <= math.log(10)).all()
    # One view, or equal views: the mean distribution is the view's.
    torch.testing.assert_close(marginal_entropy(logits[:, :1]), entropy(logits[:, 0]))
    torch.testing.assert_close(marginal_entropy(logits[:, :1].expand(50, 5, 10)), entropy(logits[:, 0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_give_finite_values_and_gradients(dtype: torch.dtype) -> None:
    logits = EXTREME.to(dtype).requires_grad_()
    for loss, expected in (
        (marginal_entropy, [0.0, math.log(2) / 2 + math.log(6) / 2, math.log(4)]),
        (entropy, [[0.0, 0.0], [0.0, math.log(3)], [math.log(4), math.log(4)]]),
    ):
        value = loss(logits)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(value.float(), torch.tensor(expected), atol=1e-6, rtol=1e-6)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    logits = logits_of(2, 4, 6).to(dtype)
    assert torch.equal(loss(logits), loss(logits.float()))


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_episode_leaves_the_others_alone(loss: Callable[[Tensor], Tensor], bad: float) -> None:
    clean = logits_of(3, 4, 6).requires_grad_()
    broken = clean.detach().clone()
    broken[1, 2, 3] = bad
    broken.requires_grad_()
    expected, value = loss(clean), loss(broken)
    assert not value[1].isfinite().all()
    assert torch.equal(value[[0, 2]], expected[[0, 2]])
    (expected_gradient,) = torch.autograd.grad(expected.sum(), clean)
    (gradient,) = torch.autograd.grad(value.sum(), broken)
    assert torch.equal(gradient[[0, 2]], expected_gradient[[0, 2]])


@BOTH
def test_episodes_in_a_batch_match_episodes_alone(loss: Callable[[Tensor], Tensor]) -> None:
    logits = logits_of(2, 3, 4, 6)
    for e in range(2):
        for f in range(3):
            torch.testing.assert_close(loss(logits)[e, f], loss(logits[e, f]))


def test_a_class_of_logit_minus_infinity_counts_as_absent() -> None:
    logits = logits_of(2, 3, 5)
    absent = logits.clone()
    absent[..., 2] = -math.inf
    absent.requires_grad_()
    rest = logits[..., [0, 1, 3, 4]].clone().requires_grad_()
    for loss in (entropy, marginal_entropy):
        value, expected = loss(absent), loss(rest)
        torch.testing.assert_close(value, expected)
        (gradient,) = torch.autograd.grad(value.sum(), absent)
        (expected_gradient,) = torch.autograd.grad(expected.sum(), rest)
        assert (gradient[..., 2] == 0).all()
        torch.testing.assert_close(gradient[..., [0, 1, 3, 4]], expected_gradient)
