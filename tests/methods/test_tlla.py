"""STSS against plain loops in Python's numbers over open_clip's own encoder, its invariants, and its rule elsewhere."""

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lorattt
import lorattt.prompts.class_prompts
from benchmarks import episodes
from conftest import CPU, Cli
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.clip.model import Clip
from lorattt.errors import UserError
from lorattt.losses.entropy import entropy, marginal_entropy
from lorattt.methods.base import Method
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.class_texts import ClassTexts
from lorattt.methods.ctpt import CTPT
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.lora_ttt_engine import LossSpec
from lorattt.methods.mean_of_views import MeanOfViews, mean_of_views
from lorattt.methods.registry import build_method
from lorattt.methods.several import Several
from lorattt.methods.tlla import TLLA, stss
from lorattt.methods.tpt import TPT, TPTEngine
from lorattt.prompts.class_prompts import ClassPrompts, neighbour_features, neighbours, random_directions
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.selection import FlatnessSpec, flatness_scores, gather_views, select_confident
from oracles import plain_texts
from tiny_models import tiny_clip, wrapped

E, V, R = 5, 16, 4
NAMES = ["cat", "golden retriever", "t-shirt", "tabby cat", "red-breasted merganser"]
SHAPES = ["red circle", "blue square", "green star", "a cross"]
SCALE = torch.tensor(20.0, dtype=torch.float64)
DEMO = ClipSpec("lorattt-demo", "demo")
VIEWS = ViewSpec(number=V)


@pytest.fixture(scope="module")
def start(clip: Clip) -> Tensor:
    vectors: Tensor = clip.model.token_embedding(clip.tokenizer(["a photo of a"])[0, 1:5]).detach()
    return vectors


@pytest.fixture(scope="module")
def views() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(E, V, 24, dtype=torch.float64, generator=generator), dim=-1)


@pytest.fixture(scope="module")
def text(clip: Clip, start: Tensor) -> Tensor:
    return ClassPrompts(clip, NAMES, "end", 4).features(start)


@pytest.fixture(scope="module")
def bank(clip: Clip, start: Tensor) -> Tensor:
    prompts = ClassPrompts(clip, NAMES, "end", 4)
    return neighbour_features(prompts, start, directions=R, radius=0.5, seed=0)


# ---- the plain way


def naive_distribution(view: Tensor, text: Tensor, scale: float) -> list[float]:
    powers = [math.exp(scale * float(view @ row)) for row in text]
    return [power / sum(powers) for power in powers]


def naive_entropy(view: Tensor, text: Tensor, scale: float) -> float:
    return -sum(p * math.log(p) for p in naive_distribution(view, text, scale))


def naive_ranking(views: Tensor, texts: list[Tensor], scale: float, sharpness: float) -> tuple[list[int], list[float]]:
    """Views of one image, flattest first, and their scores; the first of the texts is the prompt's own."""
    scores = []
    for view in views:
        own = naive_entropy(view, texts[0], scale)
        worst = max(naive_entropy(view, text, scale) for text in texts[1:])
        scores.append(own + sharpness * (worst - own))
    return sorted(range(len(views)), key=lambda v: scores[v]), scores


@pytest.mark.parametrize("sharpness", [1.0, 0.3, 2.0])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "class-specific"])
def test_equals_the_naive_loop(sharpness: float, own: bool, clip: Clip, start: Tensor, views: Tensor) -> None:
    context = start
    if own:
        noise = torch.randn(len(NAMES), *start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        context = start + 0.05 * noise
    prompts = ClassPrompts(clip, NAMES, "end", 4, class_specific=own)
    text = prompts.features(context)
    bank = neighbour_features(prompts, context, directions=R, radius=1.0, seed=7)
    outcome = stss(views, text, bank, SCALE, views_kept=5, sharpness=sharpness)
    each = context if own else context.expand(len(NAMES), -1, -1)
    moved = [each + 1.0 * direction for direction in random_directions(7, R, 4, start.shape[-1])]
    texts = [plain_texts(clip.model, NAMES, contexts) for contexts in (each, *moved)]
    changed = 0
    for e in range(E):
        order, scores = naive_ranking(views[e], texts, 20.0, sharpness)
        assert outcome.selected[e].tolist() == order[:5]
        assert outcome.scores[e].tolist() == pytest.approx(scores, abs=1e-9)
        rows = [naive_distribution(views[e, v], texts[0], 20.0) for v in order[:5]]
        mean = [sum(column) / 5 for column in zip(*rows, strict=True)]
        assert outcome.after[e].softmax(-1).tolist() == pytest.approx(mean, abs=1e-9)
        plain = naive_distribution(views[e, 0], texts[0], 20.0)
        assert outcome.before[e].softmax(-1).tolist() == pytest.approx(plain, abs=1e-9)
        changed += set(order[:5]) != set(naive_ranking(views[e], texts[:1] * 2, 20.0, 1.0)[0][:5])
    assert changed, "the comparison is empty if flatness keeps the views that confidence keeps"
    assert not outcome.fallback.any()


def test_the_whole_method_on_pictures(clip: Clip) -> None:
    """From pixels, with open_clip's own image encoder and views one by one; the oracle is in double precision."""
    method = TLLA(
        clip=LoadedClip(wrapped(tiny_clip().float()), DEMO), views=VIEWS, directions=R, views_kept=3, seed=5
    ).eval()
    method.use_classes(NAMES)
    batch = _batch(size=32)
    before, after, fallback = method.classify(method.encode_views(batch))
    embedded = clip.model.token_embedding(clip.tokenizer(["a photo of a"])[0, 1:5])
    moved = [embedded + 0.5 * direction for direction in random_directions(5, R, 4, embedded.shape[-1])]
    texts = [plain_texts(clip.model, NAMES, context) for context in (embedded, *moved)]
    scale = float(clip.model.logit_scale.exp())
    for e, image in enumerate(batch["views"]):
        encoded = [
            F.normalize(clip.model.encode_image((view[None].double() / 255 - 0.5) / 0.5), dim=-1)[0] for view in image
        ]
        order, _ = naive_ranking(torch.stack(encoded), texts, scale, 1.0)
        rows = [naive_distribution(encoded[v], texts[0], scale) for v in order[:3]]
        mean = [sum(column) / 3 for column in zip(*rows, strict=True)]
        assert after[e].softmax(-1).tolist() == pytest.approx(mean, abs=1e-4)
        assert before[e].softmax(-1).tolist() == pytest.approx(
            naive_distribution(encoded[0], texts[0], scale), abs=1e-4
        )
    assert not fallback.any()


# ---- directions and neighbours


def test_neighbours_are_radius_away(start: Tensor) -> None:
    directions = random_directions(3, 6, 4, 32)
    assert directions.dtype == torch.float64
    for radius in (0.5, 2.0):
        moved = neighbours(start, directions, radius)
        assert moved.shape == (6, 4, 32)
        assert torch.allclose((moved - start).flatten(1).norm(dim=1), torch.full((6,), radius).double(), atol=1e-12)
    single = neighbours(start.float(), directions, 0.5)
    assert single.dtype == torch.float32
    assert torch.allclose((single - start.float()).flatten(1).norm(dim=1), torch.tensor(0.5), atol=1e-6)
    own = neighbours(start.expand(5, -1, -1), directions, 0.5)
    assert own.shape == (6, 5, 4, 32)
    assert torch.equal(own[:, 3], neighbours(start, directions, 0.5))
    assert torch.equal(neighbours(start, directions, 0.0), start.expand(6, -1, -1))


def test_directions_are_functions_of_seed_and_number() -> None:
    directions = random_directions(3, 6, 4, 32)
    assert torch.equal(random_directions(3, 6, 4, 32), directions)
    assert torch.equal(random_directions(3, 2, 4, 32), directions[:2])
    flat = torch.cat([directions, random_directions(4, 6, 4, 32)]).flatten(1)
    cosines = (flat @ flat.T).fill_diagonal_(0)
    assert cosines.abs().max() < 0.5  # of 128 numbers each: the deviation of a cosine is 0.09


def test_directions_are_uniform_on_the_sphere() -> None:
    flat = random_directions(0, 400, 4, 32).flatten(1)
    scaled = flat.flatten() * 128**0.5  # about normal: 51,200 numbers of deviation 1
    assert scaled.mean().abs() < 0.02
    assert scaled.std().item() == pytest.approx(1, abs=0.01)
    assert (scaled**4).mean().item() == pytest.approx(3, abs=0.15)
    assert flat.mean(0).norm() < 0.08  # of 400 independent ones: 0.05


def test_the_bank_in_parts(
    clip: Clip, start: Tensor, bank: Tensor, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bank.shape == (R, 5, 24)
    shapes: list[tuple[int, ...]] = []
    whole = ClassPrompts.features

    def counted(self: ClassPrompts, context: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(context.shape))
        return whole(self, context, **options)

    monkeypatch.setattr(ClassPrompts, "features", counted)
    monkeypatch.setattr(lorattt.prompts.class_prompts, "_SEQUENCES", 15)
    prompts = ClassPrompts(clip, NAMES, "end", 4)
    parts = neighbour_features(prompts, start, directions=R, radius=0.5, seed=0)
    assert shapes == [(3, 4, 32), (1, 4, 32)]
    assert torch.allclose(parts, bank, atol=1e-12)
    still = neighbour_features(prompts, start, directions=1, radius=0.0, seed=0)
    assert torch.allclose(still[0], text, atol=1e-12)


# ---- what the numbers mean


def test_ends_of_sharpness_and_radius(clip: Clip, start: Tensor, views: Tensor, text: Tensor, bank: Tensor) -> None:
    logits = SCALE * views @ text.T
    each = torch.stack([entropy(SCALE * views @ row.T) for row in bank])
    assert torch.equal(flatness_scores(views, logits, bank, SCALE, 1.0), each.amax(0))
    assert torch.equal(flatness_scores(views, logits, bank, SCALE, 0.0), entropy(logits))
    still = neighbour_features(ClassPrompts(clip, NAMES, "end", 4), start, directions=R, radius=0.0, seed=0)
    for changed in ({"neighbour_text": still}, {"neighbour_text": bank, "sharpness": 0.0}):
        outcome = stss(views, text, logit_scale=SCALE, views_kept=6, **changed)
        assert torch.equal(outcome.selected, select_confident(logits, 6))
    # Of a view that gets surer wherever the prompt goes, the score is below its entropy.
    assert (flatness_scores(views, logits, bank, SCALE) < entropy(logits)).any()


def test_all_views_give_the_mean_of_views(views: Tensor, text: Tensor, bank: Tensor) -> None:
    for vote in ("soft", "hard"):
        outcome = stss(views, text, bank, SCALE, views_kept=V, vote=vote)
        expected = mean_of_views(SCALE * views @ text.T, 1.0, vote)
        assert torch.allclose(outcome.after, expected, atol=1e-12)


def test_the_order_of_views_does_not_matter(views: Tensor, text: Tensor, bank: Tensor) -> None:
    order = torch.randperm(V, generator=torch.Generator().manual_seed(0))
    outcome, turned = (stss(x, text, bank, SCALE) for x in (views, views[:, order]))
    assert torch.equal(order[turned.selected], outcome.selected)
    assert torch.allclose(turned.after, outcome.after, atol=1e-12)


def test_images_do_not_depend_on_the_batch(views: Tensor, text: Tensor, bank: Tensor) -> None:
    whole, turned = stss(views, text, bank, SCALE), stss(views.flip(0), text, bank, SCALE)
    assert torch.equal(turned.selected.flip(0), whole.selected)
    for e in range(E):
        alone = stss(views[e : e + 1], text, bank, SCALE)
        assert torch.equal(alone.selected[0], whole.selected[e])
        assert torch.allclose(alone.after[0], whole.after[e], atol=1e-12)


def test_a_hard_vote_counts_winners(views: Tensor, text: Tensor, bank: Tensor) -> None:
    outcome = stss(views, text, bank, SCALE, views_kept=5, vote="hard")
    for e in range(E):
        winners = [int((views[e, v] @ text.T).argmax()) for v in outcome.selected[e]]
        shares = [winners.count(label) / 5 for label in range(len(NAMES))]
        assert outcome.after[e].softmax(-1).tolist() == pytest.approx(shares, abs=2e-6)
        assert winners.count(int(outcome.after[e].argmax())) == max(map(winners.count, winners))


def test_views_that_are_not_finite(views: Tensor, text: Tensor, bank: Tensor) -> None:
    whole = stss(views, text, bank, SCALE)
    broken = views.clone()
    broken[1, 1:] = torch.nan  # too few are left to vote
    broken[2, int(whole.selected[2, -1])] = torch.inf  # it is taken by no vote
    outcome = stss(broken, text, bank, SCALE)
    assert outcome.fallback.tolist() == [False, True, False, False, False]
    assert torch.equal(outcome.after[1], outcome.before[1])
    assert outcome.after.isfinite().all()
    assert torch.equal(outcome.selected[2, :-1], whole.selected[2, :-1])
    assert torch.allclose(outcome.after[[0, 3, 4]], whole.after[[0, 3, 4]], atol=1e-12)


# ---- the method


def _batch(size: int = 48, episodes: int = 3) -> EpisodeBatch:
    generator = torch.Generator().manual_seed(0)
    return {
        "views": torch.randint(256, (episodes, V, 3, size, size), dtype=torch.uint8, generator=generator),
        "label": torch.zeros(episodes, dtype=torch.int64),
        "index": torch.arange(episodes),
        "path": [""] * episodes,
        "skipped": [],
    }


@pytest.fixture(scope="module")
def loaded() -> LoadedClip:
    return LoadedClip(load_clip(DEMO), DEMO)


def _bytes(method: Method) -> dict[str, bytes]:
    state = {f"clip.{name}": value for name, value in method.clip.state_dict().items()}
    state |= {"text": method.text, "context": method.learnable()[1]}
    return {name: value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for name, value in state.items()}


def test_a_run_changes_nothing_and_builds_no_graph(loaded: LoadedClip) -> None:
    method = TLLA(clip=loaded, views=VIEWS).eval()
    assert not method.needs_gradient
    method.use_classes(SHAPES)
    before = _bytes(method)
    with torch.enable_grad():
        output = method.test_step(_batch(), 0)
    assert _bytes(method) == before
    outcome = stss(
        method.encode_views(_batch()).features, method.text, method.neighbour_text_features, method.clip.logit_scale
    )
    for tensor in (*vars(outcome).values(), output["after"], method.neighbour_text_features, method.text):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad
    assert all(parameter.grad is None for parameter in method.parameters())


def test_texts_are_encoded_once_per_class_list(loaded: LoadedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    whole = ClassPrompts.features

    def counted(self: ClassPrompts, context: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(context.shape))
        return whole(self, context, **options)

    monkeypatch.setattr(ClassPrompts, "features", counted)
    method = TLLA(clip=loaded, views=VIEWS).eval()
    width = method.clip.text_tower.width
    once = [(4, width), (10, 4, width)]
    for _ in range(2):
        method.use_classes(SHAPES)
        method.test_step(_batch(), 0)
        method.test_step(_batch(), 1)
    assert shapes == once
    first = method.neighbour_text_features
    method.use_classes(SHAPES[::-1])
    assert shapes == once * 2
    assert torch.allclose(method.neighbour_text_features, first.flip(1), atol=1e-5)  # the same directions
    assert first.shape == (10, 4, method.text.shape[1])


def test_seeds(loaded: LoadedClip) -> None:
    banks = []
    for seed in (0, 0, 1):
        method = TLLA(clip=loaded, views=VIEWS, seed=seed).eval()
        method.use_classes(SHAPES)
        banks.append(method.neighbour_text_features)
    assert torch.equal(banks[0], banks[1])
    assert (banks[0] - banks[2]).abs().max() > 1e-3


def test_entropies_of_a_bf16_tower_are_float32() -> None:
    method = TLLA(clip=ClipSpec("lorattt-demo", "demo", dtype="bf16"), views=VIEWS).eval()
    method.use_classes(SHAPES)
    features = method.encode_views(_batch()).features
    scale = method.clip.logit_scale
    outcome = stss(features, method.text, method.neighbour_text_features, scale)
    assert method.clip.vision.dtype == torch.bfloat16
    assert {x.dtype for x in (method.neighbour_text_features, method.text, outcome.scores, outcome.after)} == {
        torch.float32
    }
    texts = [method.text.double(), *method.neighbour_text_features.double()]
    for e in range(3):
        _, scores = naive_ranking(features[e].double(), texts, float(scale), 1.0)
        assert outcome.scores[e].tolist() == pytest.approx(scores, abs=2e-5)  # bf16 has 3 digits


@pytest.mark.parametrize("model", ["small-vit", "small-rn"])
def test_on_the_command_line(model: str, cli: Cli, small_models: None) -> None:
    arguments = ["--model", "TLLA", "--model.clip.model", model, "--model.clip.pretrained", "null"]
    arguments += ["--model.views.number", "8", "--model.directions", "3", "--model.views_kept", "2"]
    arguments += ["--data", "DemoData", "--data.images", "6", "--data.workers", "0", *CPU]
    results = []
    for size in ("2", "5"):
        run = cli("test", *arguments, "--model.vote", "soft", "--data.batch_size", size)
        assert run.code == 0, run.err
        assert (run.results["n"], run.results["fallbacks"]) == (6, 0)
        results.append([float(row["entropy_after"]) for row in run.rows])
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    run = cli("test", *arguments, "--model.vote", "hard", "--trainer.inference_mode", "true")
    assert run.code == 0, run.err
    assert all(
        float(row["confidence_after"]) == pytest.approx(1, abs=1e-4) or 0.49 < float(row["confidence_after"]) < 0.51
        for row in run.rows
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--model.directions", "0"], "directions 0: must be at least 1"),
        (["--model.views_kept", "11"], "views_kept 11 of 10 views: must be from 1 to the number of views"),
        (["--model.vote", "loud"], "vote: expected one of soft, hard, got loud"),
    ],
)
def test_mistakes_on_the_command_line(option: list[str], message: str, cli: Cli) -> None:
    arguments = ["--model", "TLLA", "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
    run = cli("test", *arguments, "--model.views.number", "10", *option, "--data", "DemoData", *CPU)
    run.refused(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"directions": 0}, r"^directions 0: must be at least 1$"),
        ({"directions": -2}, r"^directions -2"),
        ({"radius": -0.1}, r"^radius -0\.1: must be a finite number of at least 0$"),
        ({"radius": math.nan}, r"^radius nan"),
        ({"radius": math.inf}, r"^radius inf"),
        ({"sharpness": -1.0}, r"^sharpness -1\.0: must be a finite number of at least 0$"),
        ({"sharpness": math.inf}, r"^sharpness inf"),
        ({"views_kept": 0}, r"^views_kept 0 of 16 views: must be from 1 to the number of views$"),
        ({"views_kept": 17}, r"^views_kept 17 of 16 views"),
        ({"vote": "loud"}, r"^vote 'loud': must be soft or hard$"),
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TLLA(views=VIEWS, **values)  # before the model is looked for: it would not be found here
    assert "\n" not in str(caught.value)


def test_refusals_of_the_function(views: Tensor, text: Tensor, bank: Tensor) -> None:
    with pytest.raises(UserError, match="views_kept 17 of 16 views"):
        stss(views, text, bank, SCALE, views_kept=17)
    with pytest.raises(UserError, match="vote 'loud'"):
        stss(views, text, bank, SCALE, vote="loud")  # type: ignore[arg-type]


def test_by_name(loaded: LoadedClip) -> None:
    """In Several, from the registry, and in the Python call: one answer."""
    options: dict[str, Any] = {"directions": 3, "views_kept": 4, "radius": 1}
    alone = build_method("tlla", {**options, "views": {"number": V}}, clip=loaded, seed=2).eval()
    alone.use_classes(SHAPES)
    expected = alone.test_step(_batch(), 0)["after"]
    several = Several(methods=["zero_shot", "tlla"], options={"tlla": options}, clip=loaded, views=VIEWS, seed=2).eval()
    assert not several.needs_gradient
    several.use_classes(SHAPES)
    answers = several.test_step(_batch(), 0)["methods"]  # type: ignore[typeddict-item]
    torch.testing.assert_close(answers["tlla"]["after"], expected, rtol=0, atol=1e-5)
    picture = torch.randint(256, (3, 60, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    (found,) = lorattt.classify([picture], SHAPES, method="tlla", model="lorattt-demo:demo", views={"number": 8})
    assert found.error is None
    assert len(found.after) == 4


def test_any_prompt(loaded: LoadedClip) -> None:
    """A learned prompt, another position, and a context for each class."""
    found = []
    for spec in (
        PromptSpec(),
        PromptSpec(file="demo"),
        PromptSpec(words="a drawing of a", position="front"),
        PromptSpec(words="a drawing of a", position="middle", class_specific=True),
    ):
        method = TLLA(clip=loaded, prompt=spec, views=VIEWS, directions=3).eval()
        method.use_classes(SHAPES)
        prompts, context = method.learnable()
        moved = neighbours(context, random_directions(0, 3, *context.shape[-2:]), 0.5)
        one_by_one = torch.stack([prompts.features(row) for row in moved])
        torch.testing.assert_close(method.neighbour_text_features, one_by_one, rtol=0, atol=1e-5)
        found.append(method.test_step(_batch(), 0)["after"])
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.pairwise(found))


# ---- the rule in other methods


def _naive_views(method: Any, features: Tensor) -> list[list[int]]:
    texts = [method.text.double(), *method.neighbour_text_features.double()]
    scale = float(method.clip.logit_scale)
    return [naive_ranking(rows.double(), texts, scale, method.flatness.sharpness)[0] for rows in features]


SPEC = FlatnessSpec(directions=3, radius=1.0, sharpness=0.7)


def _outcome(method: Any, **options: Any) -> Any:
    """What the method's engine makes of the batch, as its ``classify`` calls it."""
    shared = method.encode_views(_batch())
    if isinstance(method, LoRATTT):
        pixels, scale = shared.pixels, method.clip.logit_scale
        return method.engine.run(pixels, method.text, scale, shared.keys, scores=method.view_scores, **options)
    prompts, context = method.learnable()
    engine = TPTEngine(prompts, context, selection=0.25, dispersion=method.dispersion)
    return engine.run(shared.features, method.text, method.clip.logit_scale, scores=method.view_scores, **options)


@pytest.mark.parametrize("kind", [TPT, CTPT, LoRATTT])
def test_rule_flatness(kind: Any, loaded: LoadedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"loss": LossSpec(reconstruction=0, selection=0.25)} if kind is LoRATTT else {}
    arguments |= {} if kind is LoRATTT else {"selection": 0.25}
    flat = kind(clip=loaded, views=VIEWS, rule="flatness", flatness=SPEC, **arguments).eval()
    plain = kind(clip=loaded, views=VIEWS, **arguments).eval()
    flat.use_classes(SHAPES)
    with monkeypatch.context() as context:  # by confidence, no neighbour is encoded
        context.setattr(ClassTexts, "neighbours", lambda *_: pytest.fail("neighbours were encoded"))
        plain.use_classes(SHAPES)
    features = flat.encode_views(_batch()).features
    logits = flat.clip.logit_scale * features @ flat.text.T
    outcomes = {"flat": _outcome(flat), "plain": _outcome(plain)}
    assert outcomes["flat"].selected.tolist() == [order[:4] for order in _naive_views(flat, features)]
    assert torch.equal(outcomes["plain"].selected, select_confident(logits, 4))
    assert not torch.equal(outcomes["flat"].selected, outcomes["plain"].selected)
    for method, outcome in ((flat, outcomes["flat"]), (plain, outcomes["plain"])):
        kept = method.kept(method.encode_views(_batch()))
        assert kept is not None
        assert torch.equal(kept, outcome.selected)
        _, after, fallback = method.classify(method.encode_views(_batch()))
        torch.testing.assert_close(after, outcome.after, rtol=0, atol=1e-4)
        assert not fallback.any()
        if kind is not CTPT:  # its loss has another term
            expected = marginal_entropy(gather_views(logits, outcome.selected))
            torch.testing.assert_close(outcome.losses[0], expected, rtol=0, atol=1e-4)


def test_adapters_that_moved_rank_anew(loaded: LoadedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    method = LoRATTT(clip=loaded, views=VIEWS, rule="flatness", steps=2).eval()
    method.use_classes(SHAPES)
    scores, seen = method.view_scores, []
    assert scores is not None

    def watched(features: Tensor, logits: Tensor) -> Tensor:
        torch.testing.assert_close(logits, method.clip.logit_scale * features @ method.text.T, rtol=0, atol=1e-3)
        seen.append(features)
        return scores(features, logits)

    monkeypatch.setattr(LoRATTT, "view_scores", property(lambda _: watched))
    method.classify(method.encode_views(_batch()))
    assert len(seen) == 2
    assert torch.allclose(seen[0], method.encode_views(_batch()).features, atol=1e-5)
    assert (seen[1] - seen[0]).abs().max() > 1e-4
    torch.testing.assert_close(seen[1].norm(dim=-1), torch.ones(3, V))


def test_rule_flatness_in_the_mean_of_views(loaded: LoadedClip) -> None:
    flat = MeanOfViews(clip=loaded, views=VIEWS, selection=0.25, rule="flatness", flatness=SPEC).eval()
    plain = MeanOfViews(clip=loaded, views=VIEWS, selection=0.25).eval()
    for method in (flat, plain):
        method.use_classes(SHAPES)
    features = flat.encode_views(_batch()).features
    logits = flat.clip.logit_scale * features @ flat.text.T
    _, after, _ = flat.classify(flat.encode_views(_batch()))
    for e, order in enumerate(_naive_views(flat, features)):
        torch.testing.assert_close(after[e].softmax(-1), logits[e, order[:4]].softmax(-1).mean(0), rtol=0, atol=1e-5)
    _, confident, _ = plain.classify(plain.encode_views(_batch()))
    assert torch.equal(confident, mean_of_views(logits, 0.25))
    assert (confident - after).abs().max() > 1e-3
    # With STSS's own numbers it is STSS.
    tlla = TLLA(clip=loaded, views=VIEWS, views_kept=4, directions=3, radius=1.0, sharpness=0.7).eval()
    tlla.use_classes(SHAPES)
    torch.testing.assert_close(tlla.classify(tlla.encode_views(_batch()))[1], after, rtol=0, atol=1e-5)
    orders = [order[:4] for order in _naive_views(flat, features)]
    for method in (flat, tlla):
        kept = method.kept(method.encode_views(_batch()))
        assert kept is not None
        assert kept.tolist() == orders


def test_the_rule_measures_around_the_words_or_the_prompt(loaded: LoadedClip) -> None:
    banks = []
    for arguments in (
        {},
        {"templates": ["a photo of a {}."]},
        {"prompt": PromptSpec()},
        {"prompt": PromptSpec("demo")},
    ):
        method = MeanOfViews(clip=loaded, views=VIEWS, rule="flatness", **arguments).eval()
        method.use_classes(SHAPES)
        banks.append(method.neighbour_text_features)
    for same in banks[1:3]:
        assert torch.equal(same, banks[0])
    assert (banks[3] - banks[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [TPT, CTPT, LoRATTT, MeanOfViews])
def test_refusals_of_the_rule(kind: Any, loaded: LoadedClip) -> None:
    with pytest.raises(UserError, match=r"^rule 'random': must be confidence or flatness$"):
        kind(views=VIEWS, rule="random")
    with pytest.raises(
        UserError, match=r"^flatness is given, but views are ranked by confidence: set rule to flatness$"
    ):
        kind(views=VIEWS, flatness=FlatnessSpec(radius=0.3))
    if kind in (LoRATTT, MeanOfViews):
        for templates in ("openai-80", "dataset", ["a sketch of a {}."]):
            with pytest.raises(
                UserError, match=r"^rule flatness moves the vectors of a prompt, which templates .*: give"
            ) as caught:
                kind(views=VIEWS, rule="flatness", templates=templates)
            assert "\n" not in str(caught.value)
        kind(clip=loaded, views=VIEWS, rule="flatness", prompt=PromptSpec("demo"))


def test_a_text_tower_without_a_prompt_is_refused_before_the_run(
    loaded: LoadedClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = MeanOfViews(clip=loaded, views=VIEWS, rule="flatness", class_names=SHAPES)
    monkeypatch.setattr("lorattt.clip.text_tower.find_text_parts", lambda model: None)
    with pytest.raises(UserError, match="has no causal text tower"):
        method.check_texts()


def test_the_rule_on_the_command_line(cli: Cli) -> None:
    arguments = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo", "--model.views.number", "10"]
    arguments += ["--data", "DemoData", "--data.images", "4", "--data.workers", "0", *CPU]
    for method in ("TPT", "LoRATTT"):
        run = cli("test", "--model", method, *arguments, "--model.rule", "flatness", "--model.flatness.radius", "0.3")
        assert run.code == 0, run.err
        assert run.results["n"] == 4
    run = cli("test", "--model", "TPT", *arguments, "--model.flatness.radius", "0.3")
    run.refused("flatness is given")


def test_the_benchmark_of_its_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    arguments = [
        "episodes",
        "--method",
        "tlla",
        "--models",
        "demo",
        "--images",
        "2",
        "--repeats",
        "1",
        "--json",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--classes", "20", "--directions", "3"])
    episodes.main()
    assert "tlla/plain" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["views"], row["classes"], row["directions"]) == (64, 20, 3)
    assert row["largest_feature_difference"] < 1e-5
    assert row["bank_bytes"] == 3 * 20 * 4 * load_clip(DEMO).vit.project(torch.zeros(1, 128)).shape[1]
    assert row["tlla_over_plain"] == row["seconds_per_image"]["tlla"] / row["seconds_per_image"]["plain"]
    assert row["peak_memory_bytes"]["tlla"] > 0
    monkeypatch.setattr(sys, "argv", ["episodes", "--classes", "20"])
    with pytest.raises(SystemExit):
        episodes.main()
    assert "--classes is for --method tlla" in capsys.readouterr().err
