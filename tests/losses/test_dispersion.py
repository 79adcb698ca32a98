"""The dispersion of class texts against its definition."""

import math

import torch
import torch.nn.functional as F

from lorattt.losses.class_texts import text_dispersion


def test_is_the_mean_distance_from_the_centroid() -> None:
    torch.manual_seed(0)
    text = F.normalize(torch.randn(3, 5, 8, dtype=torch.float64), dim=-1)
    for e in range(3):
        centre = sum(text[e, k] for k in range(5)) / 5
        distances = [math.sqrt(sum(float(x) ** 2 for x in text[e, k] - centre)) for k in range(5)]
        assert abs(float(text_dispersion(text)[e]) - sum(distances) / 5) < 1e-12


def test_knows_its_extremes() -> None:
    same = torch.ones(4, 3) / math.sqrt(3)
    assert text_dispersion(same) < 1e-6
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert text_dispersion(opposite) == 1


def test_half_precision_is_computed_in_single() -> None:
    text = F.normalize(torch.randn(5, 8), dim=-1)
    assert text_dispersion(text.bfloat16()).dtype == torch.float32


def test_gradient() -> None:
    torch.manual_seed(1)
    text = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(text_dispersion, (text,))


def test_a_single_class_has_a_finite_gradient() -> None:
    text = torch.randn(1, 3, requires_grad=True)
    text_dispersion(text).backward()
    assert text.grad is not None
    assert text.grad.isfinite().all()
