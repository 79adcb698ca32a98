"""LayerNorm tuned in place: installed for a batch, gone afterwards, bit for bit."""

import pytest
import torch

from lorattt.adapters.layernorm import LayerNormSpec, LayerNormTuner
from lorattt.clip.vision import VisionTower
from tiny_models import tiny_clip


def test_installed_parameters_act_per_episode_and_leave_no_trace() -> None:
    tower = VisionTower(tiny_clip().visual, "tiny")
    tuner = LayerNormTuner(tower, LayerNormSpec(blocks=(1, -1)))
    before = {name: (value, value.clone()) for name, value in tower.named_parameters()}
    parameters = tuner.fresh(2, torch.device("cpu"))
    assert sorted(parameters) == [
        f"{block}.{norm}.{part}" for block in (1, 3) for norm in ("ln_1", "ln_2") for part in ("bias", "weight")
    ]
    with torch.no_grad():
        parameters["1.ln_1.weight"][1] *= 1.5
        parameters["3.ln_2.bias"][1] += 0.3
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64).expand(4, -1, -1, -1)  # 2 episodes of 2, all the same
    plain = tower.class_token(tower.embed(pixels), 0)
    with tuner.installed(parameters):
        tuned = tower.class_token(tower.embed(pixels), 0)
    # The tuned pairs are float32 copies of float64 norms.
    torch.testing.assert_close(tuned[:2], plain[:2], rtol=1e-5, atol=1e-5)
    expected = tiny_clip().visual
    expected.transformer.resblocks[1].ln_1.weight *= 1.5
    expected.transformer.resblocks[3].ln_2.bias += 0.3
    other = VisionTower(expected, "changed")
    torch.testing.assert_close(tuned[2:], other.class_token(other.embed(pixels), 0)[2:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(tuned[2:], plain[2:], atol=1e-2)
    for name, value in tower.named_parameters():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])


def test_an_exception_inside_leaves_no_trace() -> None:
    tower = VisionTower(tiny_clip().visual, "tiny")
    tuner = LayerNormTuner(tower, LayerNormSpec())
    before = {name: (value, value.clone()) for name, value in tower.named_parameters()}
    with pytest.raises(RuntimeError, match="midway"), tuner.installed(tuner.fresh(2, torch.device("cpu"))):
        assert tower.block(3).ln_1.weight.shape == (2, 64)
        raise RuntimeError("midway")
    for name, value in tower.named_parameters():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])
