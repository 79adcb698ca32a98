"""LoRA-TTT: the authors' numbers, the plain reference loop, and what may not matter to a prediction."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.reference import ReferenceLoop, ReferenceSettings
from golden.replay import replay
from lorattt.adapters.layernorm import LayerNormSpec
from lorattt.adapters.lora import LoRASpec
from lorattt.clip.attention import PROJECTIONS
from lorattt.clip.vision import VisionTower
from lorattt.episodes.optim import OptimiserSpec
from lorattt.errors import UserError
from lorattt.methods.lora_ttt_engine import LoRATTTEngine, LossSpec, Outcome
from lorattt.rng import episode_keys
from lorattt.views.selection import random_kept_patches
from tiny_models import tiny_clip

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = sorted(GOLDEN.glob("lora_ttt_*.safetensors"))
E, V, K = 4, 12, 7
SCALE = torch.tensor(20.0)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(E, 1, 3, 32, 32, generator=generator)
    return base + 0.7 * torch.randn(E, V, 3, 32, 32, generator=generator)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return F.normalize(torch.randn(K, 24, generator=torch.Generator().manual_seed(3)), dim=-1)


def _tower(**vision: int) -> VisionTower:
    return VisionTower(tiny_clip(**vision).float().visual, "tiny")


def _engine(tower: VisionTower | None = None, *, tune: str = "lora", **settings: Any) -> LoRATTTEngine:
    tower = tower or _tower()
    projections = settings.pop("projections", PROJECTIONS)
    blocks = settings.pop("blocks", (-2, -1))
    dropout = settings.pop("dropout", 0.0)
    lora = LoRASpec(rank=4, multiplier=6.0, blocks=blocks, projections=projections, dropout=dropout)
    tuner = (lora if tune == "lora" else LayerNormSpec(blocks)).build(tower, seed=0)
    loss = LossSpec(
        mem=settings.pop("mem", 1.0), reconstruction=settings.pop("reconstruction", 16.0), mask_ratio=0.5, selection=0.3
    )
    optimiser = OptimiserSpec(lr=settings.pop("lr", 1e-3))
    return LoRATTTEngine(tower, tuner, loss=loss, optimiser=optimiser, **settings)


def _run(engine: LoRATTTEngine, pixels: Tensor, text: Tensor, index: list[int] | None = None) -> Outcome:
    rows = list(range(len(pixels))) if index is None else index
    return engine.run(pixels, text, SCALE, episode_keys(0, torch.tensor(rows)))


# ---- the authors' numbers


def test_there_are_golden_files() -> None:
    assert len(FILES) >= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path: Path) -> None:
    row = replay(path)
    assert row["ok"], row
    assert row["selected_equal"]
    assert row["loss_rel"] <= 1e-4
    assert row["grad_rel"] <= 1e-4
    assert row["logits_abs"] <= 1e-3
    assert row["batched_vs_single_abs"] <= 1e-4


def _tampered(path: Path, name: str, to: Path) -> Path:
    """A copy of the file with one of its tensors a little wrong."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, to, metadata=metadata)
    return to


def test_wrong_numbers_are_found(tmp_path: Path) -> None:
    assert not replay(_tampered(FILES[0], "ep1.adapted_logits", tmp_path / "wrong.safetensors"))["ok"]


def test_replay_command_fails_on_wrong_numbers(tmp_path: Path) -> None:
    right = GOLDEN / "mta_zero.safetensors"  # the quickest
    wrong = _tampered(right, "ep1.mta_logits", tmp_path / "wrong.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(right.read_bytes()[:100])
    command = [sys.executable, str(GOLDEN / "replay.py"), str(right), str(wrong), str(tmp_path / "cut.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["ok"] for row in rows] == [True, False], "of the files before the one that is cut short"
    assert "cut.safetensors: no file of the golden format" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


# ---- the reference loop


@pytest.mark.parametrize(
    "settings",
    [
        {"mem": 1.0, "reconstruction": 0.0},
        {"mem": 0.0, "reconstruction": 1.0},
        {"mem": 1.0, "reconstruction": 16.0},
        {"mem": 0.5, "reconstruction": 3.0, "steps": 3, "lr": 5e-3},
    ],
    ids=str,
)
def test_equals_the_reference_loop(settings: dict[str, Any], pixels: Tensor, text: Tensor) -> None:
    steps = settings.get("steps", 1)
    tower = _tower()
    engine = _engine(tower, **dict(settings))
    kept = torch.stack(
        [
            torch.stack(
                [
                    random_kept_patches(torch.tensor([100 * e + s]), torch.arange(V)[None], 16, 8)[0]
                    for s in range(steps)
                ]
            )
            for e in range(E)
        ]
    )  # (E, steps, V, 8)

    def masks(step: int, selected: Tensor) -> Tensor:
        return torch.stack([kept[e, step, views] for e, views in enumerate(selected)])

    outcome = engine.run(pixels, text, SCALE, torch.arange(E), masks=masks)
    loop = ReferenceLoop(
        tower.visual,
        engine.tuner.initial,  # type: ignore[attr-defined]
        ReferenceSettings(
            multiplier=6.0,
            dropout=0.0,
            mem=engine.loss.mem,
            reconstruction=engine.loss.reconstruction,
            mask_ratio=0.5,
            selected=3,
            lr=engine.optimiser.lr,
            steps=steps,
        ),
    )
    for e in range(E):
        before, after, losses = loop.episode(pixels[e], text, SCALE, kept[e])
        torch.testing.assert_close(outcome.before[e], before, rtol=0, atol=1e-4)
        torch.testing.assert_close(outcome.after[e], after, rtol=0, atol=1e-3)
        torch.testing.assert_close(outcome.losses[:, e], torch.tensor(losses), rtol=1e-4, atol=0)
        assert (after - before).abs().max() > 5e-3, "the comparison is empty if nothing was adapted"


def test_layernorm_variant_equals_a_naive_loop(pixels: Tensor, text: Tensor) -> None:
    tower = _tower()
    engine = _engine(tower, tune="layernorm", reconstruction=0.0, lr=5e-3, steps=2)
    outcome = _run(engine, pixels, text)
    for e in range(E):
        visual = tiny_clip().float().visual
        norms = [getattr(visual.transformer.resblocks[b], n) for b in (2, 3) for n in ("ln_1", "ln_2")]
        parameters = [p.requires_grad_() for norm in norms for p in (norm.weight, norm.bias)]
        optimiser = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=0.2)
        for _ in range(2):
            p = (SCALE * F.normalize(visual(pixels[e]), dim=-1) @ text.T).softmax(-1)
            order = (-(p * p.log()).sum(-1)).argsort()[:3]
            mean = p[order].mean(0)
            optimiser.zero_grad()
            (-(mean * mean.log()).sum()).backward()
            optimiser.step()
        with torch.no_grad():
            after = (SCALE * F.normalize(visual(pixels[e, :1]), dim=-1) @ text.T)[0]
        torch.testing.assert_close(outcome.after[e], after, rtol=0, atol=2e-3)
        assert (after - outcome.before[e]).abs().max() > 2e-2


# ---- what may not matter


@pytest.mark.parametrize("tune", ["lora", "layernorm"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_batch_order_and_chunk_do_not_matter(
    tune: str, steps: int, dropout: float, pixels: Tensor, text: Tensor
) -> None:
    engine = _engine(tune=tune, steps=steps, dropout=dropout)
    together = _run(engine, pixels, text)
    for e in range(E):
        alone = _run(engine, pixels[e : e + 1], text, [e])
        torch.testing.assert_close(alone.after[0], together.after[e], rtol=0, atol=1e-4)
        assert torch.equal(alone.selected[0], together.selected[e])
    order = [2, 0, 3, 1]
    permuted = _run(engine, pixels[order], text, order)
    torch.testing.assert_close(permuted.after, together.after[order], rtol=0, atol=1e-4)
    engine.chunk = 5
    torch.testing.assert_close(_run(engine, pixels, text).after, together.after, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        # Tracing takes seconds: of the hash behind dropout for each projection, and of each block for each shape.
        {"dropout": 0.1, "projections": ("q",), "blocks": (-1,)},
        {"tune": "layernorm", "steps": 2, "reconstruction": 0.0, "blocks": (-2, -1)},
    ],
)
def test_compiled_passes_give_the_same(
    settings: dict[str, Any], pixels: Tensor, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gradients, for batches of two sizes; the adapted blocks are compiled once their shapes come again."""
    found: list[int] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        found.append(len(inputs))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    monkeypatch.setattr("lorattt.clip.vision.BACKEND", backend)
    plain, compiled = (_engine(_tower(layers=3), **dict(settings)) for _ in range(2))
    compiled.tower.compile_passes()
    expected, counts = _run(plain, pixels, text), []
    for _ in range(3):
        outcome = _run(compiled, pixels, text)
        for name in ("after", "losses", "view_logits"):
            assert torch.allclose(getattr(outcome, name), getattr(expected, name), atol=1e-4), name
        assert torch.equal(outcome.selected, expected.selected)
        # Parameters are compared through the logits after: AdamW's first step has the size of the rate whatever the
        # gradient's size, so where a gradient is near zero, rounding decides the direction.
        assert outcome.parameters.keys() == expected.parameters.keys()
        counts.append(len(found))
    assert counts[1] > counts[0], "shapes that come again are compiled"
    assert counts[2] == counts[1], "then nothing is left to compile"
    one = _run(compiled, pixels[1:2], text, [1])
    if "steps" not in settings:  # a second step's shapes come again at once
        assert len(found) == counts[2], "a batch of a new size runs as it is, once"
    assert torch.allclose(one.after, expected.after[1:2], atol=1e-4)


@pytest.mark.parametrize("tune", ["lora", "layernorm"])
def test_episodes_leave_no_trace(tune: str, pixels: Tensor, text: Tensor) -> None:
    tower = _tower()
    before = {name: (value, value.clone()) for name, value in tower.named_parameters()}
    engine = _engine(tower, tune=tune, steps=2)
    first = _run(engine, pixels, text)
    for name, value in tower.named_parameters():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])
        assert value.grad is None
    assert torch.equal(_run(engine, pixels, text).after, first.after)


@pytest.mark.parametrize("tune", ["lora", "layernorm"])
def test_no_steps_is_zero_shot(tune: str, pixels: Tensor, text: Tensor) -> None:
    tower = _tower()
    outcome = _run(_engine(tower, tune=tune, steps=0), pixels, text)
    expected = SCALE * F.normalize(tower.visual(pixels[:, 0]), dim=-1) @ text.T
    torch.testing.assert_close(outcome.before, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(outcome.after, outcome.before, rtol=0, atol=1e-5)
    assert not outcome.fallback.any()


def test_views_that_were_not_selected_do_not_matter_to_the_gradient(pixels: Tensor, text: Tensor) -> None:
    """They may change as they like, as long as they stay unconfident and are not the plain view."""
    engine = _engine()
    first = _run(engine, pixels, text)
    logits = first.view_logits
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    changed = pixels.clone()
    for e in range(E):
        worst = int(entropy[e].argmax())
        if worst:
            changed[e, worst] *= 0.99
    second = _run(engine, changed, text)
    assert torch.equal(first.selected, second.selected)
    torch.testing.assert_close(first.after, second.after, rtol=0, atol=1e-5)


# ---- one step of AdamW from B = 0


def test_the_first_step_is_a_sign_step_of_b(pixels: Tensor, text: Tensor) -> None:
    engine = _engine()
    outcome = _run(engine, pixels, text)
    initial = engine.tuner.initial  # type: ignore[attr-defined]
    for name, value in outcome.parameters.items():
        if name.endswith(".B"):
            assert value.abs().max() <= 1e-3 * (1 + 1e-5)
            assert value.abs().mean() > 0.5e-3
        else:
            torch.testing.assert_close(value[0], initial[name] * (1 - 1e-3 * 0.2), rtol=1e-5, atol=1e-8)


# ---- what goes wrong


def test_a_broken_image_falls_back_and_touches_no_other(pixels: Tensor, text: Tensor) -> None:
    engine = _engine()
    clean = _run(engine, pixels, text)
    broken = pixels.clone()
    broken[1, 5:] = float("nan")  # the plain view is fine: there is a zero-shot prediction to fall back to
    broken[1, :5] *= 1e18
    outcome = _run(engine, broken, text)
    others = [0, 2, 3]
    torch.testing.assert_close(outcome.after[others], clean.after[others], rtol=0, atol=1e-5)
    assert not outcome.fallback[others].any()


def test_an_overflowing_step_falls_back(pixels: Tensor, text: Tensor) -> None:
    outcome = _run(_engine(lr=1e30, steps=3), pixels, text)
    assert outcome.fallback.all()
    assert torch.equal(outcome.after, outcome.before)
    assert outcome.before.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_tower(dtype: torch.dtype, pixels: Tensor, text: Tensor) -> None:
    full = _run(_engine(), pixels, text)
    tower = VisionTower(tiny_clip().float().visual.to(dtype), "tiny")
    outcome = _run(_engine(tower), pixels.to(dtype), text)
    assert outcome.after.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in outcome.parameters.values())
    assert not outcome.fallback.any()
    torch.testing.assert_close(outcome.before, full.before, rtol=0, atol=1.0)
    assert (outcome.after != outcome.before).any()


@pytest.mark.parametrize("values", [{"steps": -1}, {"chunk": 0}])
def test_numbers_out_of_range(values: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        _engine(**values)


@pytest.mark.parametrize(
    "values", [{"mem": -1.0}, {"mem": 0.0, "reconstruction": 0.0}, {"reconstruction": float("inf")}]
)
def test_weights_without_meaning(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match="loss"):
        LossSpec(**values)
