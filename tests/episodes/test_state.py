"""Snapshot and restore: bit for bit, the same objects, also after an exception."""

import pytest
import torch
from torch import nn

from lorattt.episodes.state import preserved, restore, snapshot


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2).half(), nn.LayerNorm(2)))


def _bits(net: nn.Module) -> dict[str, tuple[int, bytes]]:
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: (id(value), value.detach().numpy().tobytes()) for name, value in named.items()}


def _vandalise(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[0].weight.mul_(float("nan"))
        net[2][0].bias.add_(1)
    net[2][1].weight = nn.Parameter(torch.randn(5, 2))  # another tensor in the place
    net.train()
    net[1](torch.randn(6, 4))  # moves the running statistics
    net[0].weight.requires_grad_(False)


def test_restored_after_success() -> None:
    net = _net()
    before = _bits(net)
    with preserved(net):
        _vandalise(net)
        assert _bits(net) != before
    assert _bits(net) == before


def test_restored_after_an_exception() -> None:
    net = _net()
    before = _bits(net)
    with pytest.raises(ValueError, match="midway"), preserved(net):
        _vandalise(net)
        raise ValueError("midway")
    assert _bits(net) == before


def test_values_that_are_not_finite_survive() -> None:
    net = _net()
    with torch.no_grad():
        net[0].weight[0] = torch.tensor([float("nan"), float("-inf"), -0.0])
    before = _bits(net)
    with preserved(net):
        nn.init.ones_(net[0].weight)
    assert _bits(net) == before


def test_only_the_named_modules() -> None:
    net = _net()
    with preserved(net[0]):
        nn.init.ones_(net[0].weight)
        nn.init.zeros_(net[2][1].weight)
    assert not net[2][1].weight.any()
    assert not torch.equal(net[0].weight, torch.ones_like(net[0].weight))


def test_a_snapshot_can_be_used_again() -> None:
    net = _net()
    before = _bits(net)
    saved = snapshot(net)
    for _ in range(3):
        _vandalise(net)
        restore(saved)
        assert _bits(net) == before
