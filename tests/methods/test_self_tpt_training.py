"""Self-TPT's first stage against a plain loop, CoOp and itself: devices, resuming, options, and what is refused."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from conftest import CPU, Cli
from fits import DEMO, OPTIONS, fit_context, in_two_processes, interrupted, trainer
from lorattt import demo
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.data.demo import DemoImages
from lorattt.data.training import SourceData
from lorattt.errors import UserError
from lorattt.methods.class_contrast import HeadSpec, choose_classes
from lorattt.methods.coop import CoOp
from lorattt.methods.sapt import SAPT
from lorattt.methods.self_tpt_training import SelfTPTTraining
from lorattt.methods.zero_shot import ZeroShot
from lorattt.prompts.files import load_prompt
from lorattt.prompts.prompt import PromptSpec
from methods.test_sapt import ScaledOnly

COMMON: dict[str, Any] = {**OPTIONS, "lr": 0.05}
SMALL_HEAD = HeadSpec(16, 8)


class Few:
    """A drawn image of each of 8 classes."""

    name = "few"

    def __init__(self, split: demo.Split) -> None:
        self.images = DemoImages("source", 3, 16, split, "new", 1)
        self.class_names = self.images.class_names[:8]
        self.numbers = [number for number in self.images.numbers if self.images.label(number) < 8]
        self.path, self.label, self.read = self.images.path, self.images.label, self.images.read

    def __len__(self) -> int:
        return len(self.numbers)


def data(validation: bool = False, batch_size: int = 4) -> SourceData:
    """Two batches an epoch."""
    return SourceData(Few("shots"), Few("val") if validation else None, batch_size=batch_size, workers=0)


def training(**options: Any) -> SelfTPTTraining:
    return SelfTPTTraining(**{**COMMON, "head": SMALL_HEAD, **options})


def fitted(method: Any, **options: Any) -> Tensor:
    return fit_context(method, data(), **options)


class Recorded(SelfTPTTraining):
    """Keeps what each step was given, and what it left."""

    def on_train_start(self) -> None:
        super().on_train_start()
        self.given: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.left = [[parameter.detach().clone() for parameter in self.learned()]]

    def image_features(self, views: Tensor) -> Tensor:
        self.features: Tensor = super().image_features(views)
        return self.features

    def _classes_of_step(self, label: Tensor) -> Tensor | None:
        classes = super()._classes_of_step(label)
        self.given.append((self.features, label, classes))
        return classes

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.left.append([parameter.detach().clone() for parameter in self.learned()])


class Plain:
    """Self-TPT's first stage in float64: open_clip's own text tower on whole sequences, losses written out."""

    def __init__(self, names: list[str]) -> None:
        clip = load_clip(DEMO)
        self.model = clip.model.double()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.ids = clip.tokenizer([f"a photo of a {name}." for name in names])
        self.embedded = self.model.token_embedding(self.ids)
        self.ends = self.ids.argmax(dim=-1)

    def encode(self, view: str, context: Tensor) -> Tensor:
        rows = []
        for row, end in zip(self.embedded, self.ends.tolist(), strict=True):
            name, tail = row[5 : end - 1], row[end - 1 :]
            parts = {
                "front": [name, context],
                "middle": [context[:2], name, context[2:]],
                "end": [context, name],
                "hand": [row[1:5], name],
            }[view]
            rows.append(torch.cat([row[:1], *parts, tail]))
        x = torch.stack(rows) + self.model.positional_embedding
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            x = self.model.transformer(x, attn_mask=self.model.attn_mask.double())
        x = self.model.ln_final(x)[torch.arange(len(rows)), self.ends]
        return F.normalize(x @ self.model.text_projection, dim=-1)

    def views(self, views: list[str], context: Tensor) -> dict[str, Tensor]:
        learned = [view for view in views if view != "hand"]
        own = {view: context if context.dim() == 2 else context[learned.index(view)] for view in learned}
        return {view: self.encode(view, own.get(view, torch.zeros(4, 128))) for view in views}


def contrast(z: Tensor, temperature: float) -> Tensor:
    """``(N, V, P)``; the mean over items and their positives."""
    count, views = z.shape[:2]
    rows, classes = z.flatten(0, 1), torch.arange(count).repeat_interleave(views)
    itself = torch.eye(len(rows), dtype=torch.bool)
    logs = (rows @ rows.T / temperature).masked_fill(itself, float("-inf")).log_softmax(-1)
    positive = (classes[:, None] == classes[None]) & ~itself
    return -logs[positive].mean()


ORACLE: list[dict[str, Any]] = [
    {},
    {"symmetric_matching": True, "ema": 0.5},
    {"derivative": "finite"},
    {"derivative": "finite", "symmetric_matching": True, "classify_by": "mean"},
    {"separate_contexts": True, "ce_weight": 0.5, "contrast_weight": 2.0, "matching_weight": 0.3},
    {"separate_contexts": True, "classify_by": "mean", "symmetric_matching": True, "contrast_weight": 0.0},
    {"class_views": ["front", "middle", "hand"], "classes_per_step": 5, "temperature": 0.2, "ema": 0.0},
    {"classes_per_step": 4, "ce_weight": 0.0, "class_views": ["hand", "end"], "head_lr": 0.01},
]


def differences(
    losses: Callable[..., tuple[Tensor, Tensor]], which: int, learned: Sequence[Tensor], along: Tensor
) -> list[Tensor]:
    """A loss's second derivatives by the context times a direction, from gradients at both ends of a step in float64.

    The step is the product's own in float32: where it crosses a kink of the ReLU, the difference is what is defined.
    """
    context, *others = (value.detach().requires_grad_() for value in learned)
    half = 0.1 * torch.finfo(torch.float32).eps ** (1 / 3) * context.norm() / along.norm()
    ends = []
    for sign in (1, -1):
        moved = (context + sign * half * along).detach().requires_grad_()
        of = [moved, *others] if which else [moved]
        ends.append(torch.autograd.grad(losses(moved, *others)[which], of))
    return [(a - b) / (2 * half) for a, b in zip(*ends, strict=True)]


@pytest.mark.parametrize("options", ORACLE, ids=str)
def test_equals_a_plain_loop(options: dict[str, Any]) -> None:
    """Three steps with momentum, decay and running sums."""
    method = Recorded(**{**COMMON, "head": SMALL_HEAD, **options})
    trainer(max_epochs=2, max_steps=3).fit(method, data())
    plain = Plain(list(method.class_names or ()))
    views: list[str] = list(method.class_views)
    symmetric, mean = method.symmetric_matching, method.classify_by == "mean"
    separate = method.separate_contexts
    values = [value.double() for value in method.left[0]]
    velocity = [torch.zeros_like(value) for value in values]
    past = [torch.zeros_like(values[0])] * 2
    place = [view for view in views if view != "hand"].index("end") if separate and not mean else None
    assert len(method.given) == 3
    for step, (features, label, classes) in enumerate(method.given):
        if method.derivative == "finite":  # each step by itself: what rounding does to one would grow in the next
            values = [value.double() for value in method.left[step]]
        learned = [value.clone().requires_grad_() for value in values]
        context = learned[0]

        def losses(context: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
            each = plain.views(views, context)
            stacked = torch.stack(list(each.values()), dim=1)
            end = plain.encode("end", context) if context.dim() == 2 else each["end"]
            text = F.normalize(stacked.mean(1), dim=-1) if mean else end
            ce = F.cross_entropy(plain.model.logit_scale.exp() * features.double() @ text.T, label)  # noqa: B023
            chosen = stacked if classes is None else stacked[classes]  # noqa: B023
            projected = F.normalize((chosen @ a.T + b).relu() @ c.T + d, dim=-1)
            return ce, contrast(projected, method.temperature)

        ce, cpt = losses(*learned)
        (g_ce,) = torch.autograd.grad(ce, context, create_graph=True)
        (g_cpt,) = torch.autograd.grad(cpt, context, create_graph=True)
        target, moving = method.ema * past[0] + g_ce, g_cpt
        if symmetric:
            moving = method.ema * past[1] + g_cpt
        past = [target.detach(), moving.detach()]
        one, other = (x if place is None else x[place] for x in (target, moving))
        match = 1 - F.cosine_similarity((one if symmetric else one.detach()).flatten(), other.flatten(), dim=0)
        weights = method.weights
        loss = weights["ce"] * ce + weights["contrast"] * cpt
        if method.derivative == "finite":
            gradients = list(torch.autograd.grad(loss, learned, retain_graph=True))
            for which, one_gradient in ((1, moving), (0, target)) if symmetric else ((1, moving),):
                (along,) = torch.autograd.grad(match, one_gradient, retain_graph=True)
                for number, product in enumerate(differences(losses, which, learned, along)):
                    gradients[number] = gradients[number] + weights["matching"] * product
        else:
            gradients = list(torch.autograd.grad(loss + weights["matching"] * match, learned))
        for number, gradient in enumerate(gradients):
            gradient = gradient + 5e-4 * values[number]
            velocity[number] = gradient if step == 0 else 0.9 * velocity[number] + gradient
            rate = 0.05 if number == 0 or method.head_lr is None else method.head_lr
            values[number] = values[number] - (rate if step < 2 else rate / 2) * velocity[number]
        for ours, expected in zip(method.left[step + 1], values, strict=True):
            # Differences of gradients over a short step have about three digits less.
            assert float((ours - expected).abs().max()) < (5e-3 if method.derivative == "finite" else 2e-4), step
    moved = max(float((x - y).abs().max()) for x, y in zip(method.left[0], method.left[-1], strict=True))
    assert moved > 2e-2


def test_without_contrast_and_matching_it_is_coop_bit_for_bit() -> None:
    """Also under clipping and accumulation, which are Lightning's."""
    weights = {"contrast_weight": 0.0, "matching_weight": 0.0}
    for options in ({"max_epochs": 2}, {"max_epochs": 2, "gradient_clip_val": 0.01, "accumulate_grad_batches": 2}):
        expected = fitted(CoOp(**COMMON), **options)
        method = training(**weights)
        assert torch.equal(fitted(method, **options), expected)
        assert method.head is None
    assert torch.equal(fitted(training(**weights, separate_contexts=True), **options)[2], expected)


def test_a_contrast_alone_asks_for_no_image() -> None:
    class Blind(SelfTPTTraining):
        def image_features(self, views: Tensor) -> Tensor:
            raise AssertionError("an image was encoded")

    alone = {"head": SMALL_HEAD, "ce_weight": 0.0, "matching_weight": 0.0}
    method = Blind(**COMMON, **alone)
    blind = fitted(method)
    assert (blind - method.initial.context).abs().max() > 1e-3

    class Unread(SelfTPTTraining):
        """None of the images can be read: the class names count all the same."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            empty = {**batch, "views": batch["views"][:0], "label": batch["label"][:0]}
            return super().training_step(empty, batch_idx)  # type: ignore[arg-type]

    for extra in ({}, {"symmetric_matching": True}, {"derivative": "finite"}):
        assert torch.allclose(fitted(Unread(**COMMON, head=SMALL_HEAD, **extra)), blind, atol=1e-7)


def test_what_is_logged() -> None:
    method = Recorded(**COMMON, head=SMALL_HEAD, ce_weight=0.5, contrast_weight=2.0, matching_weight=3.0)
    run = trainer(max_steps=1)
    run.fit(method, data())
    found = {name: float(run.callback_metrics[f"train/{name}"]) for name in ("loss", "ce", "contrast", "matching")}
    assert found["loss"] == pytest.approx(0.5 * found["ce"] + 2 * found["contrast"] + 3 * found["matching"], rel=1e-5)
    # In the first step the running sum is the gradient itself.
    assert found["matching"] == pytest.approx(1 - float(run.callback_metrics["train/cosine"]), abs=1e-5)
    features, label, _ = method.given[0]
    with torch.no_grad():
        text = method.prompts.features(method.initial.context)
    assert found["ce"] == pytest.approx(float(F.cross_entropy(method.logits(features, text), label)), rel=1e-3)
    lone = trainer(max_steps=1)
    lone.fit(training(matching_weight=0.0, contrast_weight=0.0), data())
    assert {name for name in lone.callback_metrics if "/" in name} == {"train/loss", "train/ce"}


def test_validation_is_by_what_classifies() -> None:
    losses = []
    for classify_by in ("end", "mean"):
        method = training(classify_by=classify_by)
        run = trainer()
        run.fit(method, data(validation=True))
        with torch.no_grad():
            text = method.views.features(method.context)
            expected = text[:, 2] if classify_by == "end" else F.normalize(text.mean(1), dim=-1)
            assert torch.allclose(method.text_features(), expected, atol=1e-6)
        losses.append(float(run.callback_metrics["val/loss"]))
    assert losses[0] != losses[1]


STATEFUL: dict[str, Any] = {"symmetric_matching": True, "classes_per_step": 5, "warmup_epochs": 1}


def state(method: SelfTPTTraining) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


def test_resuming_equals_going_on(tmp_path: Path) -> None:
    whole = training(**STATEFUL)
    trainer(max_epochs=3).fit(whole, data())

    first = training(**STATEFUL)
    checkpoint = interrupted(first, data(), tmp_path)
    assert not torch.equal(first.context, whole.context)
    second = training(**STATEFUL)
    trainer(max_epochs=3).fit(second, data(), ckpt_path=checkpoint)
    expected = state(whole)
    assert {"context", "head.layers.0.weight", "matching.target", "matching.moving"} <= expected.keys()
    assert len(expected) == 7  # nothing of the frozen model
    assert expected["matching.target"].any()
    for name, value in state(second).items():
        assert torch.equal(value, expected[name]), name
    other = training(**{**STATEFUL, "symmetric_matching": False})
    with pytest.raises(UserError, match=r"ckpt_path: it holds .*matching\.moving.*this training has"):
        trainer(max_epochs=3).fit(other, data(), ckpt_path=checkpoint)


def test_the_loss_scale_changes_nothing() -> None:
    expected = fitted(training())
    for scale in (2.0**-10, 2.0**16):
        plugin = ScaledOnly("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        assert torch.equal(fitted(training(), plugins=[plugin]), expected)


def test_half_precision_is_for_images() -> None:
    """Texts and losses stay as they are: what moves is close, under autocast of either kind."""
    expected, start = fitted(training()), load_clip(DEMO)
    words = start.model.token_embedding(start.tokenizer(["a photo of a"]))[0, 1:5]
    half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    for options in ({"precision": "bf16-mixed"}, {"plugins": [half]}):
        mixed = fitted(training(), **options)
        assert mixed.dtype == torch.float32
        assert not torch.equal(mixed, expected)
        assert float(F.cosine_similarity((mixed - words).flatten(), (expected - words).flatten(), dim=0)) > 0.95


TWO = """
from fits import trainer
from methods.test_self_tpt_training import data, state, training

def fit_all(rank):
    for name, options in {runs!r}.items():
        method = training(**options)
        trainer(devices=2, strategy="ddp").fit(method, data(batch_size=2))
        torch.save(state(method), {folder!r} + "/" + name + str(rank))
"""


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {"whole": {}, "some": {"symmetric_matching": True, "classes_per_step": 5}}
    in_two_processes(TWO.format(runs=runs, folder=str(tmp_path)), tmp_path)
    for name, options in runs.items():
        one, other = (torch.load(tmp_path / f"{name}{rank}") for rank in range(2))
        method = training(**options)
        trainer().fit(method, data())
        for key, expected in state(method).items():
            assert torch.equal(one[key], other[key]), (name, key)
            assert torch.allclose(one[key], expected, atol=1e-4, rtol=1e-4), (name, key)


def fused(q: Tensor, k: Tensor, v: Tensor, shared: Any, mask: Tensor | None) -> Tensor:
    """What ``attend`` computes, by a kernel without second derivative."""
    episodes, classes, queries = q.shape[:3]
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))
    mask = torch.zeros(queries, k.shape[3]) if mask is None else mask
    if len(shared):
        keys, values = (x.unsqueeze(1).expand(episodes, classes, -1, -1, -1) for x in shared)
        k, v = torch.cat([keys, k], dim=3), torch.cat([values, v], dim=3)
        mask = F.pad(mask, (keys.shape[3], 0))
    mask = mask.expand(episodes, classes, 1, queries, k.shape[3]).flatten(0, 1)
    q, k, v = (x.flatten(0, 1).contiguous() for x in (q, k, v))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.unflatten(0, (episodes, classes)).transpose(2, 3).flatten(-2)


def test_attention_without_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fitted(training(derivative="finite"))
    monkeypatch.setattr("lorattt.clip.text_tower.attend", fused)
    with pytest.raises(UserError, match=r"no second derivatives \(.*\): use model\.derivative finite") as error:
        fitted(training())
    assert "\n" not in str(error.value)
    assert torch.allclose(fitted(training(derivative="finite")), expected, atol=1e-3)
    fitted(training(matching_weight=0.0))


def test_a_compiled_model() -> None:
    compiled: Any = torch.compile(training(), backend="eager")
    with pytest.raises(UserError, match=r"a compiled model has no second derivatives: use model\.derivative finite"):
        trainer().fit(compiled, data())


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_text_tower_of_half_precision(dtype: Any) -> None:
    clip = ClipSpec("lorattt-demo", "demo", dtype)
    with pytest.raises(UserError, match=r"model\.clip\.dtype: .* need a text tower of fp32.*matching_weight 0"):
        training(clip=clip)
    if dtype == "bf16":  # the CPU has little of fp16
        assert fitted(training(clip=clip, matching_weight=0.0)).isfinite().all()


def test_classes_per_step() -> None:
    method = Recorded(**COMMON, head=SMALL_HEAD, classes_per_step=5)
    trainer(max_epochs=2).fit(method, data())
    for step, (_, label, classes) in enumerate(method.given):
        assert classes is not None
        assert set(label.tolist()) <= set(classes.tolist())
        present = torch.zeros(8, dtype=torch.bool)
        present[label] = True
        assert torch.equal(classes, choose_classes(present, 5, seed=4, step=step))
    for count in (8, None):
        whole = Recorded(**COMMON, head=SMALL_HEAD, classes_per_step=count)
        trainer(max_steps=1).fit(whole, data())
        assert whole.given[0][2] is None
    with pytest.raises(UserError, match=r"classes_per_step 3: .* of 4 classes, .* give at least 4, or null for all 8"):
        fitted(training(classes_per_step=3))
    trainer(max_steps=1).fit(training(classes_per_step=3), data(batch_size=3))


def test_the_file_holds_the_head_and_each_views_context(tmp_path: Path) -> None:
    method = training(separate_contexts=True, temperature=0.1, template="one {}", class_views=["end", "hand", "front"])
    trainer().fit(method, data())
    method.save_prompt(tmp_path / "p.safetensors")
    found = load_prompt(tmp_path / "p.safetensors")
    assert found.position == "end"
    assert torch.equal(found.context, method.context[0])
    assert not torch.equal(found.context, method.context[1])
    heads = {f"head.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}
    assert set(found.extras) == {"views.end", "views.front", *heads}
    assert torch.equal(found.extras["views.front"], method.context[1])
    assert torch.equal(found.extras["head.0.weight"], method.head.layers[0].weight)  # type: ignore[union-attr]
    expected = {"temperature": "0.1", "class_views": "end,hand,front", "template": "one {}"}
    assert {**expected, "method": "self_tpt_training", "epochs": "1"}.items() <= found.notes.items()
    lone = training(contrast_weight=0.0, matching_weight=0.0)
    trainer(max_steps=1).fit(lone, data())
    lone.save_prompt(tmp_path / "q.safetensors")
    assert load_prompt(tmp_path / "q.safetensors").extras == {}


def test_it_begins_at_another_prompt(tmp_path: Path) -> None:
    coop = SAPT(**COMMON)
    trainer(max_steps=1).fit(coop, data())
    coop.save_prompt(tmp_path / "p.safetensors")
    method = Recorded(**COMMON, head=SMALL_HEAD, prompt=PromptSpec(file=str(tmp_path / "p.safetensors")))
    trainer(max_steps=1).fit(method, data())
    assert torch.equal(method.left[0][0], coop.context)


SMALL = ["--model.clip.model", "small-rn", "--model.clip.pretrained", "null"]
SOURCE = ["--data", "FolderSourceData", "--data.val_shots", "1", "--data.batch_size", "2", "--data.workers", "0", *CPU]


@pytest.mark.usefixtures("small_models")
def test_a_resnet_through_the_command_line(cli: Cli, images: Path) -> None:
    fit = [
        "fit",
        "--model",
        "SelfTPTTraining",
        *SMALL,
        *SOURCE,
        "--data.root",
        str(images),
        "--trainer.max_epochs",
        "2",
    ]
    run = cli(*fit, "--model.head.out", "5", "--model.lr", "0.5", "--model.warmup_epochs", "0")
    assert run.code == 0, run.err
    tensors = load_file(run.folder / "prompt.safetensors")
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert shapes["context"] == (4, 16)
    assert (shapes["head.0.weight"], shapes["head.2.weight"]) == ((16, 16), (5, 16))
    given = ["--model.prompt.file", str(run.folder / "prompt.safetensors"), "--data", "ImageFolderData"]
    tested = cli("test", "--model", "ZeroShot", *SMALL, *given, "--data.root", str(images), "--data.workers", "0", *CPU)
    assert tested.code == 0, tested.err
    assert tested.results["n"] == 6


def test_the_prompt_that_comes_with_the_demo() -> None:
    file = Path(__file__).parents[2] / "lightning_configs" / "demo" / "self_tpt_fit.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = load_prompt(demo.PROMPTS["demo-self-tpt"])
    expected = {"method": "self_tpt_training", "data": "demo-source-base-16-shot", "temperature": "0.07"}
    expected |= {"epochs": str(config["trainer"]["max_epochs"]), "class_views": "front,middle,end,hand"}
    assert expected.items() <= found.notes.items()
    assert (found.model, found.words, found.position) == ("lorattt-demo", "a photo of a", "end")
    assert found.extras["head.0.weight"].shape == (128, 128)
    assert demo.PROMPTS["demo-self-tpt"].stat().st_size < 150_000
    texts = []
    for name in ("demo-self-tpt", "demo"):
        method = ZeroShot(clip=COMMON["clip"], prompt=PromptSpec(file=name))
        method.use_classes(["red circle", "blue square", "a cross"])
        texts.append(method.text)
    assert not torch.allclose(*texts, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 1.0}, "model.ema 1.0: must be at least 0, for no average, and below 1"),
        ({"ema": float("nan")}, "model.ema nan: must be"),
        ({"head_lr": -1.0}, "model.head_lr -1.0: must be a finite number of at least 0, or null"),
        ({"matching_weight": -1.0}, "model.matching_weight -1.0: must be a finite number"),
        ({"contrast_weight": float("inf")}, "model.contrast_weight inf: must be a finite number"),
        (dict.fromkeys(("ce_weight", "contrast_weight", "matching_weight"), 0.0), "nothing would be learned"),
        ({"classes_per_step": 1}, "model.classes_per_step 1: must be at least 2"),
        ({"class_views": ["end"]}, "model.class_views ['end']: at least two are needed"),
        ({"class_views": ["end", "end"]}, "name each view once"),
        ({"class_views": ["end", "back"]}, "class_views"),
        ({"class_views": ["front", "hand"], "separate_contexts": True}, "add end, or let the views"),
        ({"template": "a photo"}, "model.template 'a photo': must have exactly one {}"),
        ({"prompt": PromptSpec(class_specific=True)}, "leave class_specific and position out"),
        ({"prompt": PromptSpec(position="front")}, "leave class_specific and position out"),
        ({"lr": -1.0}, "model.lr -1.0: must be"),
    ],
    ids=str,
)
def test_options_without_meaning(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        training(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.temperature", "0"], "model.temperature 0.0: must be a finite number above 0"),
        (["--model.head.hidden", "0"], "head.hidden 0: must be at least 1"),
        (["--model.derivative", "numeric"], "model.derivative: expected one of exact, finite, got numeric"),
        (["--model.classes_per_step", "31"], "give at least 32, or null for all 48"),
    ],
)
def test_one_clear_line(args: list[str], message: str, cli: Cli) -> None:
    tiny = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
    source = ["--data", "DemoSourceData", "--data.shots", "1", "--data.val_shots", "0", *CPU]
    run = cli("fit", "--model", "SelfTPTTraining", *tiny, *source, "--trainer.max_epochs", "1", *args)
    run.refused(message)


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    source = data()
    source.class_names = ["ring"]
    with pytest.raises(UserError, match="the class list has 1 class: .* at least two"):
        trainer().fit(training(), source)


@pytest.mark.parametrize("position", ["middle", "front"])
def test_a_file_of_another_position(tmp_path: Path, position: Any) -> None:
    coop = CoOp(**COMMON, prompt=PromptSpec(position=position))
    trainer(max_steps=1).fit(coop, data())
    coop.save_prompt(tmp_path / "p.safetensors")
    with pytest.raises(UserError, match=rf"p\.safetensors: .* position {position}; the views need one for all"):
        fitted(training(prompt=PromptSpec(file=str(tmp_path / "p.safetensors"))))


def test_a_loaded_model_is_shared() -> None:
    loaded = COMMON["clip"]
    before = {name: value.clone() for name, value in loaded.clip.state_dict().items()}
    fitted(training(clip=loaded))
    for name, value in loaded.clip.state_dict().items():
        assert torch.equal(value, before[name])
