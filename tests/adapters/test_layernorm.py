"""LayerNorm's weights and biases as an adapter: what it gives, without a change to the tower."""

import torch
from torch import Tensor

from lorattt.adapters.layernorm import LayerNormSpec
from lorattt.clip.vision import VisionTower
from tiny_models import tiny_clip


def test_each_episode_has_its_own_norms_and_the_tower_keeps_its_own() -> None:
    tower = VisionTower(tiny_clip().visual, "tiny")
    tuner = LayerNormSpec(blocks=(1, -1)).build(tower, seed=0)
    before = {name: (value, value.clone()) for name, value in tower.named_parameters()}
    parameters = tuner.init_parameters(2, torch.device("cpu"))
    assert sorted(parameters) == [
        f"{block}.{norm}.{part}" for block in (1, 3) for norm in ("ln_1", "ln_2") for part in ("bias", "weight")
    ]
    with torch.no_grad():
        parameters["1.ln_1.weight"][1] *= 1.5
        parameters["3.ln_2.bias"][1] += 0.3
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64).expand(4, -1, -1, -1)  # 2 episodes of 2, all the same
    plain = tower.class_token(tower.embed(pixels), 0)
    tuned = tower.class_token(tower.embed(pixels), 0, tuner.adapter(parameters))
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


def test_gradients_are_those_of_a_tower_with_these_norms() -> None:
    """Each episode's gradient against autograd through open_clip's own block, one episode at a time."""
    tower = VisionTower(tiny_clip().visual, "tiny")
    tuner = LayerNormSpec(blocks=(2,)).build(tower, seed=0)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(4, 17, 64, generator=generator, dtype=torch.float64)
    weights = torch.randn(4, 64, generator=generator, dtype=torch.float64)
    leaves: dict[str, Tensor] = {
        name: (value.double() + 0.2 * torch.randn(value.shape, generator=generator)).detach().requires_grad_()
        for name, value in tuner.init_parameters(2, torch.device("cpu")).items()
    }
    (tower.class_token(tokens, 2, tuner.adapter(leaves)) * weights).sum().backward()
    for e in range(2):
        visual, rows = tiny_clip().visual, slice(2 * e, 2 * e + 2)
        own = {}
        for name, value in leaves.items():
            _, norm, part = name.split(".")
            own[name] = getattr(getattr(visual.transformer.resblocks[2], norm), part)
            own[name].data.copy_(value[e])
            own[name].requires_grad_()
        x = visual.transformer.resblocks[3](visual.transformer.resblocks[2](tokens[rows]))
        (visual.ln_post(x[:, 0]) * weights[rows]).sum().backward()
        for name, value in own.items():
            assert leaves[name].grad is not None
            torch.testing.assert_close(leaves[name].grad[e], value.grad, rtol=1e-9, atol=1e-9)
