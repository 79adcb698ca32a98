"""Blocks run in place against the plain ones, in float64."""

import pytest
import torch
from torch import Tensor, nn

from lorattt.clip.attention import Scratch, run_block, run_frozen_block_
from lorattt.clip.vision import VisionTower
from tiny_models import tiny_clip

WIDTH, LENGTH = 64, 17


@pytest.fixture
def tower() -> VisionTower:
    return VisionTower(tiny_clip().visual, "tiny")


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(5, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "activation", [None, nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU()], ids=["quick", "gelu", "tanh", "relu"]
)
def test_in_place_equals_plain(tower: VisionTower, tokens: Tensor, activation: nn.Module | None) -> None:
    if activation is not None:
        for number in range(tower.depth):
            tower.block(number).mlp.gelu = activation
    expected, scratch = tower.blocks(tokens, 0, tower.depth), Scratch()
    given = tokens.clone()
    ours = tower.frozen_blocks_(given, 0, tower.depth, scratch)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert ours.data_ptr() == given.data_ptr()
    # Temporaries that hold another batch's values, and are too large for this one, do no harm.
    smaller = tower.frozen_blocks_(tokens[:2, :6].clone(), 0, tower.depth, scratch)
    torch.testing.assert_close(smaller, tower.blocks(tokens[:2, :6], 0, tower.depth), rtol=1e-10, atol=1e-10)
    larger = tower.frozen_blocks_(tokens.repeat(3, 1, 1), 0, tower.depth, scratch)
    torch.testing.assert_close(larger, expected.repeat(3, 1, 1), rtol=1e-10, atol=1e-10)


def test_layer_scale_is_not_left_out(tokens: Tensor) -> None:
    tower = VisionTower(tiny_clip(ls_init_value=0.5).visual, "tiny")
    expected = run_block(tower.block(0), tokens)
    torch.testing.assert_close(run_frozen_block_(tower.block(0), tokens, Scratch()), expected, rtol=0, atol=0)


def test_autocast_keeps_its_own_dtypes(tower: VisionTower, tokens: Tensor) -> None:
    tower.float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = run_block(tower.block(0), tokens.float())
        ours = run_frozen_block_(tower.block(0), tokens.float(), Scratch())
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_plain_block(tower: VisionTower, tokens: Tensor, dtype: torch.dtype) -> None:
    tower.to(dtype)
    with torch.no_grad():
        plain = run_block(tower.block(0), tokens.to(dtype))
    torch.testing.assert_close(run_frozen_block_(tower.block(0), tokens.to(dtype), Scratch()), plain, rtol=0, atol=0)
