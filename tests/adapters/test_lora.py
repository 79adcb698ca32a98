"""LoRA with an episode axis against weights merged per episode."""

import pytest
import torch
from torch import Tensor

from lorattt.adapters.lora import LoRA, LoRASpec, LoRATuner, initial_lora
from lorattt.clip.vision import VisionTower
from lorattt.errors import UserError
from lorattt.rng import episode_keys
from tiny_models import tiny_clip

E, N = 3, 2


@pytest.fixture
def tower() -> VisionTower:
    return VisionTower(tiny_clip().visual, "tiny")


def _random(tuner: LoRATuner) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {k: 0.1 * torch.randn(E, *v.shape, dtype=torch.float64) for k, v in tuner.initial.items()}


@pytest.mark.parametrize("projections", [("q", "k", "v", "out"), ("q", "v"), ("out",)])
def test_batched_equals_merged_weights(projections: tuple[str, ...]) -> None:
    tower = VisionTower(tiny_clip().visual, "tiny")
    spec = LoRASpec(rank=4, multiplier=3.0, blocks=(1, 3), projections=projections, dropout=0.0)  # type: ignore[arg-type]
    tuner = LoRATuner(tower, spec, seed=0)
    parameters = _random(tuner)
    pixels = torch.randn(E * N, 3, 32, 32, dtype=torch.float64)
    ours = tower.class_token(tower.embed(pixels), 0, tuner.adapter(parameters)).view(E, N, -1)
    for e in range(E):
        merged = tiny_clip().visual
        for block in (1, 3):
            attn = merged.transformer.resblocks[block].attn
            for projection in projections:
                delta = 3.0 * parameters[f"{block}.{projection}.B"][e] @ parameters[f"{block}.{projection}.A"][e]
                if projection == "out":
                    attn.out_proj.weight += delta
                else:
                    start = 64 * ("q", "k", "v").index(projection)
                    attn.in_proj_weight[start : start + 64] += delta
        expected = VisionTower(merged, "merged")
        mine = pixels.view(E, N, 3, 32, 32)[e]
        torch.testing.assert_close(ours[e], expected.class_token(expected.embed(mine), 0), rtol=1e-9, atol=1e-9)


def test_fresh_adapters_change_nothing(tower: VisionTower) -> None:
    tuner = LoRATuner(tower, LoRASpec(rank=4), seed=0)
    assert tuner.is_identity_at_init
    parameters = {k: v.double() for k, v in tuner.init_parameters(2, torch.device("cpu")).items()}
    pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    adapted = tower.class_token(tower.embed(pixels), 0, tuner.adapter(parameters))
    torch.testing.assert_close(adapted, tower.class_token(tower.embed(pixels), 0), rtol=0, atol=1e-12)


def test_initial_values(tower: VisionTower) -> None:
    initial = initial_lora(LoRASpec(), 64, (2, 3), seed=7)
    assert len(initial) == 16
    bound = 64**-0.5  # Kaiming-uniform with a = sqrt(5): 1 / sqrt(fan in)
    for name, value in initial.items():
        if name.endswith(".B"):
            assert not value.any()
        else:
            assert value.shape == (16, 64)
            assert value.abs().max() <= bound
            assert value.abs().max() > 0.95 * bound
            assert abs(value.mean()) < 0.1 * bound
    others = initial_lora(LoRASpec(), 64, (2, 3), seed=8)
    assert not torch.equal(initial["2.q.A"], others["2.q.A"])
    assert not torch.equal(initial["2.q.A"], initial["3.q.A"])
    again = initial_lora(LoRASpec(projections=("k",)), 64, (3,), seed=7)
    assert torch.equal(again["3.k.A"], initial["3.k.A"]), "a block's adapter does not depend on the others"


def test_fresh_leaves_share_nothing(tower: VisionTower) -> None:
    tuner = LoRATuner(tower, LoRASpec(rank=4), seed=0)
    one, two = tuner.init_parameters(3, torch.device("cpu")), tuner.init_parameters(3, torch.device("cpu"))
    for value in one.values():
        assert value.is_leaf
        value.detach().add_(1)
    for name, value in two.items():
        assert torch.equal(value[0], tuner.initial[name])
        assert value.dtype == torch.float32


def test_parameter_count_of_vit_b_16() -> None:
    initial = initial_lora(LoRASpec(), 768, (10, 11), seed=0)
    assert sum(value.numel() for value in initial.values()) == 196_608


def test_dropout_depends_on_the_episode_alone() -> None:
    """An episode's dropout is the same alone, in a batch, and in any place of it."""
    width, rows = 32, 50
    parameters = {"0.q.A": torch.randn(4, 3, width), "0.q.B": torch.randn(4, width, 3)}
    x = torch.randn(4, rows, width)
    keys = episode_keys(0, torch.tensor([11, 5, 8, 2]))
    together = LoRA(parameters, 1.0, 0.3, keys).add(0, "q", x, torch.zeros_like(x))
    for place in range(4):
        one = {name: value[place : place + 1] for name, value in parameters.items()}
        alone = LoRA(one, 1.0, 0.3, keys[place : place + 1]).add(
            0, "q", x[place : place + 1], torch.zeros(1, rows, width)
        )
        torch.testing.assert_close(together[place : place + 1], alone)


def test_dropout_is_unbiased_and_off_without_keys() -> None:
    width = 16
    parameters = {"0.q.A": torch.randn(1, 3, width), "0.q.B": torch.randn(1, width, 3)}
    x = torch.randn(1, 1, width)
    plain = LoRA(parameters, 1.0, 0.2).add(0, "q", x, torch.zeros_like(x))
    draws = [LoRA(parameters, 1.0, 0.2, torch.tensor([key])).add(0, "q", x, torch.zeros_like(x)) for key in range(4000)]
    mean = torch.stack(draws).mean(0)
    torch.testing.assert_close(mean, plain, rtol=0.1, atol=0.1 * plain.abs().max().item())
    assert not torch.equal(draws[0], plain)


def test_gradients_of_fresh_adapters(tower: VisionTower) -> None:
    """Knowing that B is zero changes neither the output nor a gradient, dropout included."""
    tuner = LoRATuner(tower, LoRASpec(rank=4, blocks=(-2, -1), dropout=0.2), seed=0)
    keys, pixels = episode_keys(0, torch.arange(E)), torch.randn(E * N, 3, 32, 32, dtype=torch.float64)
    outputs, gradients = [], []
    for fresh in (False, True):
        leaves = {
            k: v.detach().double().requires_grad_() for k, v in tuner.init_parameters(E, torch.device("cpu")).items()
        }
        out = tower.class_token(tower.embed(pixels), 0, tuner.adapter(leaves, keys, at_init=fresh))
        outputs.append(out.detach())
        gradients.append(torch.autograd.grad(out.sin().sum(), list(leaves.values()), materialize_grads=True))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)
    for name, plain, quick in zip(tuner.initial, *gradients, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-9, atol=1e-12)
        assert bool(plain.any()) == name.endswith(".B")


def test_adapters_that_do_not_start_at_zero_are_never_taken_for_it(tower: VisionTower) -> None:
    tuner = LoRATuner(tower, LoRASpec(rank=4), seed=0)
    tuner.initial = {k: v + 0.1 for k, v in tuner.initial.items()}
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    leaves = {k: v.double() for k, v in tuner.init_parameters(2, torch.device("cpu")).items()}
    quick = tower.class_token(tower.embed(pixels), 0, tuner.adapter(leaves, at_init=True))
    plain = tower.class_token(tower.embed(pixels), 0, tuner.adapter(leaves))
    torch.testing.assert_close(quick, plain)


@pytest.mark.parametrize(
    "values",
    [{"rank": 0}, {"multiplier": float("nan")}, {"dropout": 1.0}, {"dropout": -0.1}, {"projections": ()}],
    ids=str,
)
def test_values_without_meaning_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"lora.{next(iter(values))}"):
        LoRASpec(**values)  # type: ignore[arg-type]
