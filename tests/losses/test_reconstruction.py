"""Class-token reconstruction against a loop over plain floats."""

import pytest
import torch
from torch import Tensor

from lorattt.losses.reconstruction import class_token_reconstruction


def tokens(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_matches_a_loop(ratio: float) -> None:
    masked, target = tokens(0, 3, 4, 5), tokens(1, 3, 4, 5)
    expected = []
    for mine, theirs in zip(masked.tolist(), target.tolist(), strict=True):
        total = 0.0
        for one, other in zip(mine, theirs, strict=True):
            total += sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / 5 / ratio
        expected.append(total / 4)
    value = class_token_reconstruction(masked, target, ratio)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))


def test_gradient_matches_finite_differences() -> None:
    target = tokens(1, 2, 3, 4)
    assert torch.autograd.gradcheck(
        lambda masked: class_token_reconstruction(masked, target, 0.75), tokens(0, 2, 3, 4).requires_grad_()
    )


def test_no_gradient_flows_into_the_target() -> None:
    masked, target = tokens(0, 2, 3, 4).requires_grad_(), tokens(1, 2, 3, 4).requires_grad_()
    class_token_reconstruction(masked, target, 0.75).sum().backward()
    assert target.grad is None
    assert masked.grad is not None
    torch.testing.assert_close(masked.grad, 2 * (masked - target).detach() / (3 * 4 * 0.75))


def test_is_zero_for_equal_tokens_and_does_not_depend_on_the_order_of_views() -> None:
    masked, target = tokens(0, 2, 3, 4), tokens(1, 2, 3, 4)
    assert class_token_reconstruction(masked, masked, 0.75).tolist() == [0, 0]
    order = [2, 0, 1]
    torch.testing.assert_close(
        class_token_reconstruction(masked[:, order], target[:, order], 0.75),
        class_token_reconstruction(masked, target, 0.75),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_tokens_in_half_precision_stay_finite(dtype: torch.dtype) -> None:
    masked = torch.full((2, 3, 4), 1e4, dtype=dtype, requires_grad=True)
    value = class_token_reconstruction(masked, -masked.detach(), 0.5)
    assert value.dtype == torch.float32
    exact = (2 * masked[0, 0, 0].item()) ** 2 / 0.5
    torch.testing.assert_close(value, torch.full((2,), exact))
    value.sum().backward()
    assert masked.grad is not None
    assert masked.grad.isfinite().all()


def test_a_broken_episode_leaves_the_others_alone() -> None:
    masked, target = tokens(0, 3, 2, 4), tokens(1, 3, 2, 4)
    expected = class_token_reconstruction(masked, target, 0.75)
    broken = masked.clone()
    broken[1, 0, 0] = float("nan")
    broken.requires_grad_()
    value = class_token_reconstruction(broken, target, 0.75)
    assert value.isnan().tolist() == [False, True, False]
    assert torch.equal(value[[0, 2]], expected[[0, 2]])
    value.sum().backward()
    assert broken.grad is not None
    torch.testing.assert_close(broken.grad[[0, 2]], 2 * (masked - target)[[0, 2]] / (2 * 4 * 0.75))
