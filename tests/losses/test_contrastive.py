"""The contrast of class names against a double loop, and its derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.losses.class_texts import class_contrast


def drawn(classes: int, views: int, width: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(classes, views, width, generator=generator, dtype=torch.float64), dim=-1)


def naive(z: Tensor, temperature: float) -> float:
    """Item by item, with nothing but sums."""
    items = [(c, v) for c in range(z.shape[0]) for v in range(z.shape[1])]

    def alike(one: tuple[int, int], other: tuple[int, int]) -> float:
        return math.exp(float(z[one] @ z[other]) / temperature)

    total = 0.0
    for item in items:
        everything = sum(alike(item, other) for other in items if other != item)
        positives = [other for other in items if other[0] == item[0] and other != item]
        total -= sum(math.log(alike(item, other) / everything) for other in positives) / len(positives)
    return total / len(items)


@pytest.mark.parametrize(("classes", "views", "temperature"), [(2, 2, 0.07), (5, 4, 0.07), (3, 3, 1.0)])
def test_equals_a_double_loop(classes: int, views: int, temperature: float) -> None:
    z = drawn(classes, views)
    assert float(class_contrast(z, temperature)) == pytest.approx(naive(z, temperature), rel=1e-12)


def test_what_is_known_in_advance() -> None:
    """Equal items: each has 4N - 1 others, all alike. Classes apart and views together: next to nothing is left."""
    same = F.normalize(torch.ones(5, 4, 3, dtype=torch.float64), dim=-1)
    assert float(class_contrast(same, 0.07)) == pytest.approx(math.log(19), rel=1e-12)
    apart = torch.eye(5, dtype=torch.float64).unsqueeze(1).expand(-1, 4, -1)
    assert float(class_contrast(apart, 0.07)) == pytest.approx(math.log(3 + 16 * math.exp(-1 / 0.07)), rel=1e-9)


@pytest.mark.parametrize("anchors", [1, 5, 20, 4096])
def test_parts_equal_the_whole_twice_differentiated(anchors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of(anchors: int) -> tuple[Tensor, Tensor, Tensor]:
        monkeypatch.setattr("lorattt.losses.class_texts._ANCHORS", anchors)
        z = drawn(5, 4).requires_grad_()
        loss = class_contrast(z, 0.2)
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        (product,) = torch.autograd.grad((gradient * drawn(5, 4, seed=1)).sum(), z)
        return loss, gradient, product

    for ours, expected in zip(all_of(anchors), all_of(100), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("anchors", [5, 4096])
def test_derivatives(anchors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorattt.losses.class_texts._ANCHORS", anchors)
    z = drawn(4, 3, 4).requires_grad_()

    def loss(z: Tensor) -> Tensor:
        return class_contrast(z, 0.5)

    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


def test_the_order_of_classes_and_views_does_not_matter() -> None:
    z = drawn(6, 4)
    loss = class_contrast(z, 0.07)
    shuffled = z[torch.tensor([3, 1, 5, 0, 2, 4])][:, torch.tensor([2, 0, 3, 1])]
    assert float(class_contrast(shuffled, 0.07)) == pytest.approx(float(loss), rel=1e-12)
    mixed = z.clone()
    mixed[0, 0], mixed[1, 0] = z[1, 0], z[0, 0]  # other classes
    assert float(class_contrast(mixed, 0.07)) != pytest.approx(float(loss), rel=1e-3)


def test_half_precision_is_widened_first() -> None:
    z = drawn(6, 4).bfloat16()
    loss = class_contrast(z, 0.07)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, class_contrast(z.float(), 0.07))
