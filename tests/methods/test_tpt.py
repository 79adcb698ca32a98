"""TPT and C-TPT against a plain loop over images, written from the papers with open_clip's own encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from golden.replay import replay
from lorattt.clip.load import ClipSpec
from lorattt.clip.model import Clip
from lorattt.episodes.optim import OptimiserSpec
from lorattt.errors import UserError
from lorattt.methods.ctpt import CTPT
from lorattt.methods.tpt import TPT, TPTEngine
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.views.crops import ViewSpec
from oracles import plain_texts

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["cat", "golden retriever", "t-shirt", "tabby cat", "red-breasted merganser"]
SCALE = torch.tensor(20.0, dtype=torch.float64)
OPTIMISER = OptimiserSpec(lr=5e-3, weight_decay=0.01)


@pytest.fixture(scope="module")
def start(clip: Clip) -> Tensor:
    tokens = clip.tokenizer(["a photo of a"])[0, 1:5]
    return clip.model.token_embedding(tokens).detach()


def features(episodes: int, views: int = 16, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(episodes, views, 24, dtype=torch.float64, generator=generator), dim=-1)


def naive_tpt(
    model: Any, start: Tensor, views: Tensor, steps: int, weight: float = 0.0, selection: float = 0.25
) -> tuple[Tensor, Tensor, list[float], Tensor]:
    """One image: logits after, selected views, losses, context."""
    context = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW([context], lr=OPTIMISER.lr, weight_decay=OPTIMISER.weight_decay)
    selected, losses = None, []
    for _ in range(steps):
        text = plain_texts(model, NAMES, context)
        p = (SCALE * views @ text.T).softmax(-1)
        if selected is None:
            selected = (-(p * p.log()).sum(-1)).argsort()[: int(len(views) * selection)]
        mean = p[selected].mean(0)
        loss = -(mean * mean.log()).sum()
        loss = loss - weight * (text - text.mean(0)).norm(dim=-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert selected is not None
    with torch.no_grad():
        return SCALE * views[0] @ plain_texts(model, NAMES, context).T, selected, losses, context.detach()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("weight", [0.0, 20.0])
def test_equals_the_plain_loop(clip: Clip, start: Tensor, steps: int, weight: float) -> None:
    views = features(4)
    prompts = ClassPrompts(clip, NAMES, "end", 4)
    engine = TPTEngine(prompts, start, selection=0.25, optimiser=OPTIMISER, steps=steps, dispersion=weight)
    outcome = engine.run(views, prompts.features(start), SCALE)
    for e in range(4):
        after, selected, losses, context = naive_tpt(clip.model, start, views[e], steps, weight)
        assert outcome.selected[e].tolist() == selected.tolist()
        assert torch.allclose(outcome.losses[:, e], torch.tensor(losses, dtype=torch.float64), atol=1e-10)
        assert torch.allclose(outcome.context[e], context, atol=1e-8)
        assert torch.allclose(outcome.after[e], after, atol=1e-7)
        assert torch.allclose(
            outcome.before[e], SCALE * views[e, 0] @ plain_texts(clip.model, NAMES, start).T, atol=1e-10
        )
    assert not outcome.fallback.any()
    assert (outcome.after - outcome.before).abs().max() > 1e-3  # something was tuned


def test_an_episode_does_not_depend_on_the_others(clip: Clip, start: Tensor) -> None:
    views = features(5)
    prompts = ClassPrompts(clip, NAMES, "middle", 4)
    engine = TPTEngine(prompts, start, selection=0.25, steps=2)
    text = prompts.features(start)
    whole = engine.run(views, text, SCALE)
    turned = engine.run(views.flip(0), text, SCALE)
    assert torch.allclose(turned.after.flip(0), whole.after, atol=1e-8)
    for e in range(5):
        assert torch.allclose(engine.run(views[e : e + 1], text, SCALE).after[0], whole.after[e], atol=1e-8)


def test_the_texts_of_the_first_step_are_encoded_once(
    clip: Clip, start: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    right = ClassPrompts.features

    def spy(self: ClassPrompts, context: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(context.shape))
        return right(self, context, **options)

    prompts = ClassPrompts(clip, NAMES, "end", 4)
    text = prompts.features(start)
    monkeypatch.setattr(ClassPrompts, "features", spy)
    TPTEngine(prompts, start, selection=0.25, steps=2).run(features(3), text, SCALE)
    assert shapes == [(4, 32), (3, 4, 32), (3, 4, 32)]  # first step, second step, prediction


def test_class_specific_contexts(clip: Clip, start: Tensor) -> None:
    """The same words for every class begin as the unified context does, and then part."""
    views = features(2)
    unified, own = (ClassPrompts(clip, NAMES, "end", 4, class_specific=own) for own in (False, True))
    contexts = start.expand(len(NAMES), -1, -1)
    assert torch.allclose(own.features(contexts), unified.features(start), atol=1e-12)
    outcome = TPTEngine(own, contexts, selection=0.25).run(views, own.features(contexts), SCALE)
    assert outcome.context.shape == (2, 5, 4, 32)
    # The gradient of a shared context is the sum of those of its copies: AdamW's first step goes by the signs.
    shared = TPTEngine(unified, start, selection=0.25).run(views, own.features(contexts), SCALE)
    assert torch.allclose(shared.losses, outcome.losses, atol=1e-10)
    assert (outcome.after - shared.after).abs().max() > 1e-6


def test_no_steps_is_zero_shot(clip: Clip, start: Tensor) -> None:
    prompts = ClassPrompts(clip, NAMES, "end", 4)
    outcome = TPTEngine(prompts, start, selection=0.25, steps=0).run(features(2), prompts.features(start), SCALE)
    assert torch.equal(outcome.after, outcome.before)
    assert not outcome.fallback.any()


def test_an_episode_that_is_not_finite_keeps_its_zero_shot_prediction(clip: Clip, start: Tensor) -> None:
    views = features(3)
    alone = views.clone()
    views[1, 2] = float("nan")
    prompts = ClassPrompts(clip, NAMES, "end", 4)
    engine, text = TPTEngine(prompts, start, selection=1.0), prompts.features(start)
    outcome = engine.run(views, text, SCALE)
    assert outcome.fallback.tolist() == [False, True, False]
    assert torch.equal(outcome.after[1], outcome.before[1])
    assert torch.allclose(outcome.after[[0, 2]], engine.run(alone, text, SCALE).after[[0, 2]], atol=1e-8)


def test_ctpt_keeps_texts_further_apart_than_tpt(clip: Clip, start: Tensor) -> None:
    views, prompts = features(2), ClassPrompts(clip, NAMES, "end", 4)
    text = prompts.features(start)
    spread = []
    for weight in (0.0, 50.0):
        engine = TPTEngine(prompts, start, selection=0.25, steps=3, dispersion=weight)
        tuned = prompts.features(engine.run(views, text, SCALE).context)
        spread.append((tuned - tuned.mean(1, keepdim=True)).norm(dim=-1).mean())
    assert spread[1] > spread[0]


@pytest.mark.parametrize("kind", [TPT, CTPT])
def test_methods_on_the_demo(kind: type[TPT]) -> None:
    method = kind(clip=ClipSpec("lorattt-demo", "demo"), views=ViewSpec(number=10)).eval()
    names = ["red circle", "blue square", "green star"]
    method.use_classes(names)
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(256, (3, 10, 3, 48, 48), dtype=torch.uint8, generator=generator)
    batch: Any = {
        "views": views,
        "index": torch.arange(3),
        "label": torch.zeros(3),
        "path": ["", "", ""],
        "skipped": [],
    }
    before, after, fallback = method.classify(method.encode_views(batch))
    assert before.shape == after.shape == (3, 3)
    assert not fallback.any()
    assert not torch.equal(before, after)
    # Before is what the words of the prompt give as a template.
    template = method.clip.text_features(names, "single")
    expected = method.clip.logit_scale * method.clip.image_features(views[:, 0]) @ template.T
    assert torch.allclose(before, expected, atol=1e-3)
    assert all(not parameter.requires_grad for parameter in method.parameters())


def test_refusals() -> None:
    with pytest.raises(UserError, match="steps -1: must be at least 0"):
        TPT(steps=-1)
    with pytest.raises(UserError, match="keeps none"):
        TPT(views=ViewSpec(number=5))
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="dispersion .*: must be a finite number of at least 0"):
            CTPT(dispersion=value)


@pytest.mark.parametrize("name", ["tpt", "tpt_4steps", "tpt_front"])
def test_golden_episodes(name: str) -> None:
    row = replay(GOLDEN / f"{name}.safetensors")
    assert row["ok"], row
    assert row["method"] == "tpt"
    assert row["episodes"] == 3


@pytest.mark.parametrize("name", ["ep1.adapted_logits", "ep1.grad_ctx", "ep2.loss", "text_features_init"])
def test_replay_sees_wrong_numbers(name: str, tmp_path: Path) -> None:
    with safe_open(GOLDEN / "tpt.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, tmp_path / "wrong.safetensors", metadata=metadata)
    assert not replay(tmp_path / "wrong.safetensors")["ok"]
