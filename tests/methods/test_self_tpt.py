"""Stage 2 against a plain SGD loop over open_clip's own encoder; what it must not depend on, and what it must leave."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import lorattt
from conftest import CPU, Cli
from forked import Forks, environments
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.clip.model import Clip
from lorattt.errors import UserError
from lorattt.losses.entropy import entropy
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.class_contrast import ContrastiveTask, HeadSpec, ProjectionHead
from lorattt.methods.self_tpt import SelfTPT, adapt_to_names, distinct_names
from lorattt.methods.several import Several
from lorattt.methods.tlla import TLLA
from lorattt.methods.zero_shot import ZeroShot
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.class_views import CLASS_VIEWS, ClassView, ClassViews
from lorattt.prompts.files import Prompt, save_prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.views.crops import ViewSpec
from tiny_models import tiny_clip, wrapped

NAMES = ["red circle", "blue square", "green star", "a cross", "light blue ring"]
DEMO = ClipSpec("lorattt-demo", "demo")
V = 12
VIEWS = ViewSpec(number=V, scale=(0.5, 1.0))
NOTES = {"temperature": "0.2", "class_views": "front,middle,end,hand", "template": "a photo of a {}."}
TOKENIZER = open_clip.get_tokenizer("ViT-B-32")
FAST = 20.0  # a rate at which two steps with a random head can be seen


@pytest.fixture(scope="module")
def loaded() -> LoadedClip:
    return LoadedClip(load_clip(DEMO), DEMO)


@pytest.fixture(scope="module")
def file(loaded: LoadedClip, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _write(loaded.clip, tmp_path_factory.mktemp("stage1") / "prompt.safetensors")


def _write(
    clip: Clip, path: Path, *, notes: dict[str, str] = NOTES, head: bool = True, separate: Sequence[str] = ()
) -> str:
    """A stage 1 that learned nothing, or of a context for each view, moved a little."""
    prompt = build_prompt(PromptSpec(), clip, [], 0)
    width = clip.text_features(["a"], "single").shape[1]
    extras = ProjectionHead(width, HeadSpec(None, 16), seed=4).tensors() if head else {}
    generator = torch.Generator().manual_seed(1)
    for view in separate:
        extras[f"views.{view}"] = prompt.context + 0.1 * torch.randn(prompt.context.shape, generator=generator)
    save_prompt(replace(prompt, notes=notes, extras=extras), path)
    return str(path)


def _method(loaded: LoadedClip, file: str, names: Sequence[str] = NAMES, **options: Any) -> SelfTPT:
    method = SelfTPT(clip=loaded, prompt=PromptSpec(file=file), **{"stage2_lr": FAST, "steps": 2, **options}).eval()
    method.use_classes(names)
    return method


def _batch(size: int = 48, episodes: int = 3, views: int = V) -> EpisodeBatch:
    generator = torch.Generator().manual_seed(0)
    return {
        "views": torch.randint(256, (episodes, views, 3, size, size), dtype=torch.uint8, generator=generator),
        "label": torch.zeros(episodes, dtype=torch.int64),
        "index": torch.arange(episodes),
        "path": [""] * episodes,
        "skipped": [],
    }


# ---- the plain way


def naive_text(model: Any, context: Tensor, name: str, view: str) -> Tensor:
    """One text ``(D,)``, 77 tokens through open_clip's own tower; ``hand`` is the words."""
    if view == "hand":
        tokens = TOKENIZER([f"a photo of a {name}."])
        return F.normalize(model.encode_text(tokens)[0], dim=-1)
    word, stop = (model.token_embedding(torch.tensor(TOKENIZER.encode(text))) for text in (name, "."))
    start, end = (model.token_embedding(torch.tensor([i])) for i in (TOKENIZER.sot_token_id, TOKENIZER.eot_token_id))
    half = len(context) // 2
    middle = {
        "front": [word, context],
        "middle": [context[:half], word, context[half:]],
        "end": [context, word],
    }[view]
    x = torch.cat([start, *middle, stop, end])
    place = len(x) - 1
    x = torch.cat([x, model.token_embedding(torch.zeros(77 - len(x), dtype=torch.int64))]) + model.positional_embedding
    x = model.ln_final(model.transformer(x[None], attn_mask=model.attn_mask))[0, place]
    return F.normalize(x @ model.text_projection, dim=-1)


def naive_contrast(projections: Tensor, temperature: float) -> Tensor:
    """``(N, V, P)``: for each anchor, the mean over positives of minus the logarithm of their softmax."""
    classes, views, _ = projections.shape
    items = [(c, v) for c in range(classes) for v in range(views)]
    total = projections.new_zeros(())
    for c, v in items:
        others = [item for item in items if item != (c, v)]
        near = torch.stack([projections[c, v] @ projections[item] / temperature for item in others])
        positives = [place for place, (k, _) in enumerate(others) if k == c]
        total = total - torch.stack([near.log_softmax(0)[place] for place in positives]).mean()
    return total / len(items)


def naive_stage2(
    model: Any,
    head: nn.Module,
    contexts: dict[str, Tensor],
    names: list[str],
    views: Sequence[str],
    *,
    steps: int,
    lr: float,
) -> tuple[dict[str, Tensor], list[float]]:
    """Contexts after plain SGD, and the losses before each step and after the last; the same tensor may stand twice."""
    learned = list({id(context): context for context in contexts.values()}.values())
    optimiser = torch.optim.SGD(learned, lr=lr)
    losses = []
    for step in range(steps + 1):
        rows = [[naive_text(model, contexts.get(view, learned[0]), name, view) for view in views] for name in names]
        texts = torch.stack([torch.stack(row) for row in rows])
        loss = naive_contrast(F.normalize(head(texts), dim=-1), 0.2)
        losses.append(float(loss.detach()))
        if step < steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return contexts, losses


@pytest.fixture(scope="module")
def tiny() -> LoadedClip:
    return LoadedClip(wrapped(tiny_clip()), ClipSpec("tiny", None))


@pytest.mark.parametrize(
    ("views", "classify_by", "separate", "chunk"),
    [
        (CLASS_VIEWS, "end", False, None),
        (CLASS_VIEWS, "mean", False, 3),
        (CLASS_VIEWS, "end", True, None),
        (("middle", "end", "hand"), "mean", True, 1),
        (("front", "middle"), "end", False, None),  # what classifies has no part in the contrast
    ],
)
def test_stage_2_is_plain_sgd_on_the_names(
    views: tuple[ClassView, ...],
    classify_by: Literal["end", "mean"],
    separate: bool,
    chunk: int | None,
    tiny: LoadedClip,
    tmp_path: Path,
) -> None:
    names = ["golden retriever", "cat", "red-breasted merganser"]
    learned = [view for view in CLASS_VIEWS if view != "hand"] if separate else []
    file = _write(tiny.clip, tmp_path / "prompt.safetensors", separate=learned)
    options: dict[str, Any] = {"class_views": list(views), "classify_by": classify_by, "text_chunk": chunk}
    method = SelfTPT(clip=tiny, prompt=PromptSpec(file=file), steps=3, stage2_lr=2.0, **options).double().eval()
    method.use_classes(names)
    assert method.head is not None
    model, own = tiny.clip.model, method.context
    shared = own.clone()
    places = [view for view in views if view != "hand"]
    contexts: dict[str, Tensor] = {
        view: own[place].clone() if separate else shared for place, view in enumerate(places)
    }
    contexts.setdefault("end", shared)
    started = {view: context.clone() for view, context in contexts.items()}
    for context in contexts.values():
        context.requires_grad_()
    contexts, losses = naive_stage2(model, method.head.layers, contexts, names, views, steps=3, lr=2.0)

    def texts(at: dict[str, Tensor]) -> Tensor:
        reads = views if classify_by == "mean" else ["end"]
        rows = [torch.stack([naive_text(model, at.get(view, own), name, view) for view in reads]) for name in names]
        return F.normalize(torch.stack(rows).mean(1), dim=-1).detach()

    assert torch.allclose(method.source, texts(started), atol=1e-9)
    assert torch.allclose(method.adapted, texts(contexts), atol=1e-7)
    assert (method.adapted - method.source).abs().max() > 1e-3
    report = method.stage2_report
    assert report is not None
    assert (report.loss_before, report.loss_after) == pytest.approx(
        (losses[0], losses[-1]), abs=1e-7
    )  # the fixed texts are float32
    assert losses[-1] < losses[0]
    assert (report.classes, report.steps, report.finite) == (3, 3, True)


# ---- what it does not depend on


def test_no_steps_are_stage_1(loaded: LoadedClip, file: str) -> None:
    still, off = _method(loaded, file, steps=0), _method(loaded, file, stage2=False)
    moved = _method(loaded, file)
    for method in (still, off):
        assert torch.equal(method.adapted, method.source)
        assert torch.equal(method.source, moved.source)
        before, after, fallback = method.classify(method.encode_views(_batch()))
        assert torch.equal(before, after)
        assert not fallback.any()
    assert off.stage2_report is None
    assert still.stage2_report is not None
    assert still.stage2_report.loss_before == still.stage2_report.loss_after
    assert (moved.adapted - moved.source).abs().max() > 1e-2
    plain = ZeroShot(clip=loaded, prompt=PromptSpec(file=file)).eval()
    plain.use_classes(NAMES)
    torch.testing.assert_close(moved.source, plain.text, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        moved.classify(moved.encode_views(_batch()))[0],
        plain.classify(plain.encode_views(_batch()))[1],
        rtol=0,
        atol=1e-5,
    )


def test_order_and_repetition_of_names(loaded: LoadedClip, file: str) -> None:
    method = _method(loaded, file)
    other = ["light_blue  ring", *NAMES[::-1], "Red Circle"]
    turned = _method(loaded, file, other)
    places = [4, 4, 3, 2, 1, 0, 0]
    assert torch.equal(turned.adapted, method.adapted[places])
    assert torch.equal(turned.source, method.source[places])
    assert method.stage2_report is not None
    assert turned.stage2_report is not None
    assert turned.stage2_report.classes == 5
    assert turned.stage2_report.loss_after == method.stage2_report.loss_after
    names, at = distinct_names(loaded.clip, other)
    assert [names[place].lower().split() for place in at] == [name.replace("_", " ").lower().split() for name in other]


def test_once_for_a_list_of_names(loaded: LoadedClip, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    whole = ClassPrompts.features

    def counted(self: ClassPrompts, *args: Any, **options: Any) -> Tensor:
        counts.append(self.count)
        return whole(self, *args, **options)

    method = _method(loaded, file)
    first = method.adapted
    monkeypatch.setattr(ClassPrompts, "features", counted)
    method.use_classes(NAMES)
    method.test_step(_batch(views=1), 0)
    assert not counts
    method.use_classes(NAMES[::-1])
    assert not counts, "no text is encoded again, and there is no stage 2"
    assert torch.equal(method.adapted, first.flip(0))
    method.use_classes(NAMES[:3])
    assert len(counts) > 6
    assert (method.adapted - first[:3]).abs().max() > 1e-4, "other names, another prompt"
    method.use_classes(NAMES)
    assert torch.equal(method.adapted, first), "from a fresh copy each time"


@pytest.mark.parametrize("size", [1, 2, 7])
def test_in_parts(size: int, loaded: LoadedClip, file: str) -> None:
    whole, parts = (_method(loaded, file, text_chunk=chunk) for chunk in (None, size))
    torch.testing.assert_close(parts.adapted, whole.adapted, rtol=0, atol=2e-5)
    assert (whole.adapted - whole.source).abs().max() > 1e-2


def test_it_leaves_everything_as_it_was(loaded: LoadedClip, file: str) -> None:
    held = Path(file).read_bytes()
    method = SelfTPT(clip=loaded, prompt=PromptSpec(file=file), stage2_lr=FAST, steps=2).eval()
    learned = {name: value.clone() for name, value in method.named_parameters()} | {"context": method.context.clone()}
    assert any(name.startswith("head.") for name in learned)
    method.use_classes(NAMES)
    with torch.enable_grad():
        output = method.test_step(_batch(views=1), 0)
    now = dict(method.named_parameters()) | {"context": method.context}
    assert all(torch.equal(value, now[name]) for name, value in learned.items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.parameters())
    assert not any(x.requires_grad for x in (output["before"], output["after"], method.adapted, method.source))
    assert Path(file).read_bytes() == held
    assert not method.needs_gradient


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_towers_of_half_precision(dtype: Literal["bf16", "fp16"], loaded: LoadedClip, file: str) -> None:
    """Its texts have two or three digits; the prompt goes where it goes in float32."""
    clips = [loaded, LoadedClip(load_clip(ClipSpec("lorattt-demo", "demo", dtype=dtype)), DEMO)]
    steps = []
    for clip in clips:
        method = _method(clip, file, steps=1)
        assert method.adapted.dtype == torch.float32
        assert method.head is not None
        task = ContrastiveTask(ClassViews(clip.clip, NAMES, 4), method.head, 0.2)
        scale = 1024.0 if dtype == "fp16" else 1.0
        moved, losses = adapt_to_names(task, method.context, steps=1, lr=FAST, scale=scale)
        steps.append((moved - method.context).flatten())
        assert losses.dtype == torch.float32
    assert torch.cosine_similarity(steps[0], steps[1], dim=0) > 0.99
    assert float(steps[0].norm() / steps[1].norm()) == pytest.approx(1, abs=0.05)


def test_a_stage_2_that_is_not_finite(loaded: LoadedClip, file: str) -> None:
    with pytest.warns(UserWarning, match="stage 2 of Self-TPT was not finite: the prompt of stage 1 classifies"):
        method = _method(loaded, file, stage2_lr=1e38)
    assert method.stage2_report is not None
    assert not method.stage2_report.finite
    for each in (method, _ensemble_after_failure(loaded, file)):
        _, after, fallback = each.classify(each.encode_views(_batch()))
        assert fallback.all()
        assert after.isfinite().all()
    assert torch.equal(*method.classify(method.encode_views(_batch()))[:2])
    method.stage2_lr = FAST
    method.use_classes(NAMES[:4])
    assert not method.classify(method.encode_views(_batch()))[2].any()


def _ensemble_after_failure(loaded: LoadedClip, file: str) -> SelfTPT:
    with pytest.warns(UserWarning, match="not finite"):
        return _method(loaded, file, stage2_lr=1e38, ensemble=True, views=VIEWS, selection=0.25)


# ---- views and company


def test_one_plain_view_unless_it_is_an_ensemble(loaded: LoadedClip, file: str) -> None:
    plain, many = (_method(loaded, file, views=VIEWS, ensemble=each) for each in (False, True))
    assert not plain.needs.all_views
    assert many.needs.all_views
    picture = Image.new("RGB", (60, 50))
    assert plain.make_views()(picture, 0).shape[0] == 1
    assert many.make_views()(picture, 0).shape[0] == V


def test_the_ensemble_is_the_mean_of_the_confident_views(loaded: LoadedClip, file: str) -> None:
    method = _method(loaded, file, views=VIEWS, ensemble=True, selection=0.25)
    shared = method.encode_views(_batch())
    before, after, fallback = method.classify(shared)
    logits = method.clip.logit_scale * shared.features @ method.adapted.T
    kept = method.kept(shared)
    assert kept is not None
    for e in range(3):
        order = sorted(range(V), key=lambda v: float(entropy(logits[e, v])))[:3]
        assert kept[e].tolist() == order
        mean = torch.stack([logits[e, v].softmax(-1) for v in order]).mean(0)
        torch.testing.assert_close(after[e].softmax(-1), mean, rtol=0, atol=1e-5)
    alone = _method(loaded, file)
    assert alone.kept(alone.encode_views(_batch())) is None
    plain = alone.classify(alone.encode_views(_batch()))
    torch.testing.assert_close(before, plain[0], rtol=0, atol=1e-4)
    assert (after.softmax(-1) - plain[1].softmax(-1)).abs().max() > 1e-3
    assert not fallback.any()


@pytest.mark.parametrize("methods", [["zero_shot", "self_tpt", "tlla"], ["self_tpt", "zero_shot"]], ids=str)
def test_in_company(methods: list[str], loaded: LoadedClip, file: str) -> None:
    """Each says what it says alone: the adapted texts are nobody else's."""
    prompt = PromptSpec(file=file)
    options = {"self_tpt": {"stage2_lr": FAST, "steps": 2}}
    several = Several(methods=methods, options=options, clip=loaded, prompt=prompt, views=VIEWS).eval()
    assert not several.needs_gradient
    several.use_classes(NAMES)
    output = several.test_step(_batch(), 0)
    alone = {
        "zero_shot": ZeroShot(clip=loaded, prompt=prompt),
        "tlla": TLLA(clip=loaded, prompt=prompt, views=VIEWS),
        "self_tpt": SelfTPT(clip=loaded, prompt=prompt, stage2_lr=FAST, steps=2),
    }
    for name in methods:
        method = alone[name].eval()
        method.use_classes(NAMES)
        expected = method.test_step(_batch(), 0)
        answer = output["methods"][name]  # type: ignore[typeddict-item]
        torch.testing.assert_close(answer["before"], expected["before"], rtol=0, atol=1e-4)
        torch.testing.assert_close(answer["after"], expected["after"], rtol=0, atol=1e-4)
    answers = output["methods"]  # type: ignore[typeddict-item]
    assert (answers["self_tpt"]["after"] - answers["zero_shot"]["after"]).abs().max() > 1e-2


def test_by_name(file: str) -> None:
    picture = torch.randint(256, (3, 60, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"prompt": {"file": file}, "stage2_lr": FAST, "class_views": ["end", "hand"]}
    with torch.inference_mode():
        (found,) = lorattt.classify([picture], NAMES, method="self_tpt", model="lorattt-demo:demo", **options)
    assert found.error is None
    assert [name for name, _ in found.after] != [] != [name for name, _ in found.before]
    assert dict(found.after) != dict(found.before)


# ---- the command line


_DATA = ["--data", "DemoData", "--data.images", "6", "--data.workers", "0", "--trainer.accelerator", "cpu"]


def _arguments(file: str, *more: str) -> list[str]:
    model = ["--model", "SelfTPT", "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
    own = ["--model.prompt.file", file, "--model.stage2_lr", "20", "--model.steps", "2"]
    return [*model, *own, *_DATA, *more]


def test_on_the_command_line(file: str, cli: Cli) -> None:
    results = []
    for inference, size in (("false", "2"), ("true", "4")):
        options = ["--trainer.devices", "1", "--trainer.inference_mode", inference, "--data.batch_size", size]
        run = cli("test", *_arguments(file), *options)
        assert run.code == 0, run.err
        assert (run.results["n"], run.results["fallbacks"]) == (6, 0)
        assert run.out.count("stage 2: 2 steps on 64 class names in ") == 1
        results.append([float(row["entropy_after"]) for row in run.rows])
    assert results[1] == pytest.approx(results[0], abs=1e-4)
    assert any(row["entropy_before"] != row["entropy_after"] for row in run.rows)
    run = cli("predict", *_arguments(file, "--trainer.devices", "1", "--model.stage2", "false"))
    assert run.code == 0, run.err
    assert "stage 2" not in run.out


def test_autocast_does_not_reach_it(file: str, cli: Cli) -> None:
    entropies = []
    for precision in ("32-true", "bf16-mixed"):
        run = cli("test", *_arguments(file, "--trainer.devices", "1", "--trainer.precision", precision))
        assert run.code == 0, run.err
        line = next(line for line in run.out.splitlines() if "stage 2: " in line)
        entropies.append(line.partition("contrastive loss ")[2])
    assert entropies[0] == entropies[1]


def test_any_image_tower(small_models: None, cli: Cli, tmp_path: Path) -> None:
    clip = load_clip(ClipSpec("small-rn", None))
    file = _write(clip, tmp_path / "prompt.safetensors")
    options = ["--model.clip.model", "small-rn", "--model.clip.pretrained", "null", "--trainer.devices", "1"]
    views = ["--model.ensemble", "true", "--model.views.number", "8", "--model.selection", "0.5"]
    for more in ([], views):
        run = cli("test", *_arguments(file), *options, *more)
        assert run.code == 0, run.err
        assert (run.results["n"], run.results["fallbacks"]) == (6, 0)


def test_two_processes(file: str, cli: Cli, tmp_path: Path) -> None:
    reference = cli("test", *_arguments(file, "--trainer.devices", "1", "--data.batch_size", "2"))
    folder = tmp_path / "two"
    more = ["--data.batch_size", "2", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    (tmp_path / "log").mkdir()
    forks = Forks(tmp_path / "log")
    try:
        arguments = ["test", *_arguments(file, *more), "--run.folder", str(folder)]
        done = forks.run(arguments, tmp_path, envs=environments(2))
    finally:
        forks.close()
    assert done.codes == [0, 0], done.err
    assert "".join(done.out).count("stage 2: ") == 1
    with (folder / "self_tpt" / "predictions.csv").open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["index"] for row in rows] == [row["index"] for row in reference.rows]
    for ours, theirs in zip(rows, reference.rows, strict=True):
        assert ours["prediction_after"] == theirs["prediction_after"]
        assert float(ours["entropy_after"]) == pytest.approx(float(theirs["entropy_after"]), abs=1e-4)
    results = json.loads((folder / "self_tpt" / "results.json").read_text(encoding="utf-8"))
    assert results["nll_after"] == pytest.approx(reference.results["nll_after"], abs=1e-3)


# ---- refusals


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": PromptSpec()}, r"^stage 2 of Self-TPT needs a prompt with a projection head: give model\.prompt\."),
        ({"prompt": PromptSpec(file="demo")}, r"it has no projection head, which stage 2 of Self-TPT needs: give"),
        ({"prompt": PromptSpec(file="nowhere.safetensors")}, r"^prompt file nowhere\.safetensors: no such file$"),
        ({"temperature": 0.0}, r"^model\.temperature 0\.0: must be a finite number above 0$"),
        ({"temperature": float("nan")}, r"^model\.temperature nan"),
        ({"class_views": ["end", "side"]}, r"^model\.class_views: 'side' is none of front, middle, end, hand$"),
        ({"class_views": ["end"]}, r"^model\.class_views \['end'\]: at least two are needed"),
        ({"class_views": ["end", "end"]}, r"^model\.class_views .*: name each view once$"),
        ({"steps": -1}, r"^model\.steps -1: must be at least 0$"),
        ({"stage2_lr": float("inf")}, r"^model\.stage2_lr inf: must be a finite number of at least 0$"),
        ({"text_chunk": 0}, r"^model\.text_chunk 0: must be at least 1, or null$"),
        ({"classify_by": "front"}, r"^model\.classify_by 'front': must be end or mean$"),
        ({"ensemble": True, "views": ViewSpec(number=5)}, r"keeps none"),
    ],
)
def test_refusals(values: dict[str, Any], message: str, file: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SelfTPT(**{"prompt": PromptSpec(file=file), **values})  # before the model is looked for
    assert "\n" not in str(caught.value)


def _spoiled(loaded: LoadedClip, folder: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    path = folder / "prompt.safetensors"
    clip = loaded.clip
    yield _write(clip, path, notes={**NOTES, "temperature": "warm"}), {}, r"its temperature 'warm' is no number above 0"
    yield _write(clip, path, notes={**NOTES, "temperature": "-1"}), {}, r"its temperature '-1' is no number above 0"
    yield _write(clip, path, notes={**NOTES, "class_views": "end,back"}), {}, r"class_views: 'back' is none of"
    yield _write(clip, path, notes={**NOTES, "template": "a photo"}), {}, r"template 'a photo': must have exactly one"
    separate = _write(clip, path, separate=["middle", "end"])
    yield separate, {}, r"it has separate contexts, and none for the view front: leave model\.class_views null"
    removed = {"class_views": ["front", "middle"]}
    separate = _write(clip, path, separate=["front", "middle", "end"])
    yield separate, removed, r"^class_views \['front', 'middle'\]: the end view classifies, and with separate contexts"
    prompt = build_prompt(PromptSpec(), clip, [], 0)
    head = ProjectionHead(128, HeadSpec(None, 16)).tensors()
    save_prompt(replace(prompt, position="front", extras=head), path)
    yield str(path), {}, r"^the prompt's position is front, and Self-TPT puts one context into every position"
    each = Prompt(prompt.context.expand(2, -1, -1), "end", None, clip.name, ("a", "b"))
    save_prompt(replace(each, extras=head), path)
    yield str(path), {}, r"every class has a context of its own, which other names cannot use"
    save_prompt(replace(prompt, extras=ProjectionHead(64, HeadSpec(None, 16)).tensors()), path)
    yield str(path), {}, r"its projection head does not fit text features of width 128"
    save_prompt(replace(prompt, extras={**head, "views.end": prompt.context[:2].clone()}), path)
    yield str(path), {"class_views": ["end", "hand"]}, r"is damaged \(its context of the view end does not fit\)"


def test_files_that_do_not_fit(loaded: LoadedClip, tmp_path: Path) -> None:
    tried = 0
    for file, options, message in _spoiled(loaded, tmp_path):
        with pytest.raises(UserError, match=message) as caught:
            SelfTPT(clip=loaded, prompt=PromptSpec(file=file), **options)
        assert "\n" not in str(caught.value)
        tried += 1
    assert tried == 10


def test_a_head_is_for_stage_2_alone(loaded: LoadedClip, tmp_path: Path) -> None:
    bare = _write(loaded.clip, tmp_path / "bare.safetensors", head=False)
    for spec in (PromptSpec(file=bare), PromptSpec(), PromptSpec(file="demo")):
        method = SelfTPT(clip=loaded, prompt=spec, stage2=False, classify_by="mean").eval()
        method.use_classes(NAMES)
        assert torch.equal(method.adapted, method.source)
    with pytest.raises(UserError, match="every class has a context of its own"):
        SelfTPT(clip=loaded, prompt=PromptSpec(class_specific=True), stage2=False)


def test_nothing_to_tell_apart(loaded: LoadedClip, file: str, cli: Cli, tmp_path: Path) -> None:
    method = SelfTPT(clip=loaded, prompt=PromptSpec(file=file)).eval()
    for names in (["cat"], ["cat", "Cat", "cat "]):
        with pytest.raises(UserError, match=r"^the class list has 1 distinct name: stage 2 of Self-TPT tells names"):
            method.use_classes(names)
    _method(loaded, file, ["cat"], stage2=False)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 50)).save(tmp_path / "images" / "0.png")
    data = ["--data", "ImagesData", "--data.images", str(tmp_path / "images"), "--data.class_names", '["cat", "Cat"]']
    run = cli("predict", *_arguments(file)[: -len(_DATA)], *data, *CPU)
    assert run.code == 2
    assert "lorattt: error: the class list has 1 distinct name: stage 2 of Self-TPT" in run.err
    with pytest.raises(UserError, match="the class list is empty"):
        method.use_classes([])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--model.prompt.file", "demo"], "it has no projection head, which stage 2 of Self-TPT needs"),
        (["--model.class_views", "[end,side]"], "class_views"),
        (["--model.steps", "-2"], "model.steps -2: must be at least 0"),
        (["--model.classify_by", "hand"], "classify_by: expected one of end, mean, got hand"),
    ],
)
def test_mistakes_on_the_command_line(option: list[str], message: str, file: str, cli: Cli) -> None:
    run = cli("test", *_arguments(file), *option, *CPU)
    run.refused(message)
