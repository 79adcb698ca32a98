"""The projection head: a function of the seed, and what a prompt's file holds of it."""

import pytest
import torch
import torch.nn.functional as F

from lorattt.errors import UserError
from lorattt.prompts.head import ContrastHead, HeadSpec, head_from_tensors


def test_two_layers_and_unit_length() -> None:
    head = ContrastHead(8, 5, 3, seed=1)
    features = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))
    weights = list(head.parameters())
    hidden = torch.relu(features @ weights[0].T + weights[1])
    expected = hidden @ weights[2].T + weights[3]
    assert torch.allclose(head(features), expected / expected.norm(dim=-1, keepdim=True), atol=1e-6)
    assert head.double()(features.double()).dtype == torch.float64
    assert [tuple(weight.shape) for weight in ContrastHead(8).parameters()] == [(8, 8), (8,), (128, 8), (128,)]


def test_it_is_drawn_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    first, state = ContrastHead(8, seed=3), torch.get_rng_state()
    torch.manual_seed(1)
    again, other = ContrastHead(8, seed=3), ContrastHead(8, seed=4)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was taken from the run's own stream
    for one, same, another in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, another)


def test_round_trip() -> None:
    head = ContrastHead(8, 5, 3, seed=1)
    tensors = head.tensors()
    assert set(tensors) == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    found = head_from_tensors({**tensors, "views.end": torch.zeros(2)}, 8, "p.safetensors")
    features = F.normalize(torch.randn(4, 8), dim=-1)
    assert torch.equal(found(features), head(features))
    with torch.no_grad():
        next(head.parameters()).zero_()
    assert tensors["head.0.weight"].abs().max() > 0  # a copy


def test_heads_that_are_none() -> None:
    tensors = ContrastHead(8, 5, 3).tensors()
    with pytest.raises(UserError, match=r"p: this prompt has no projection head.*SelfTPTTraining.*ZeroShot"):
        head_from_tensors({"views.end": torch.zeros(2)}, 8, "p")
    missing = {name: value for name, value in tensors.items() if name != "head.2.bias"}
    for given, width in ((tensors, 9), (missing, 8), ({**tensors, "head.4.bias": torch.zeros(1)}, 8)):
        with pytest.raises(UserError, match="p: its projection head does not fit text features of width"):
            head_from_tensors(given, width, "p")


@pytest.mark.parametrize(("key", "value"), [("hidden", 0), ("out", 0), ("out", -2)])
def test_a_width_below_1(key: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"head\.{key} {value}: must be at least 1"):
        HeadSpec(**{key: value})
    with pytest.raises(UserError, match=rf"head\.{key} {value}: must be at least 1"):
        ContrastHead(8, **{key: value})
