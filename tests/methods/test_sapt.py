"""SAPT against CoOp, a plain loop and itself: precisions, devices, resuming, and what an exception leaves."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import Tensor

from conftest import CPU, Cli
from fits import DEMO, OPTIONS, fit_context, in_two_processes, interrupted, trainer
from lorattt import demo
from lorattt.clip.load import load_clip
from lorattt.data.demo_source import DemoSourceData
from lorattt.errors import UserError
from lorattt.methods.coop import CoOp
from lorattt.methods.sapt import SAPT
from lorattt.methods.zero_shot import ZeroShot
from lorattt.prompts.files import load_prompt
from lorattt.prompts.prompt import PromptSpec

COMMON: dict[str, Any] = {**OPTIONS, "lr": 0.2}


def data(**options: Any) -> DemoSourceData:
    """16 classes, two batches an epoch."""
    return DemoSourceData(**{"classes": "new", "shots": 1, "val_shots": 0, "batch_size": 8, **options})


def sapt(**options: Any) -> SAPT:
    return SAPT(**{**COMMON, **options})


def fitted(method: Any, **options: Any) -> Tensor:
    return fit_context(method, data(), **options)


class Recorded(SAPT):
    """Keeps what it was given in the first pass of each step, and the context after each step."""

    def on_train_start(self) -> None:
        self.passes: list[tuple[Tensor, Tensor, Tensor]] = []
        self.contexts = [self.context.detach().clone()]

    def source_loss(self, features: Tensor, label: Tensor) -> Tensor:
        self.passes.append((features, label, self.context.detach().clone()))
        return super().source_loss(features, label)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.contexts.append(self.context.detach().clone())


@pytest.mark.parametrize(("precision", "sharpness"), [("32-true", (1.0, 0.3)), ("bf16-mixed", (0.3,))])
def test_with_rho_0_it_is_coop_bit_for_bit(precision: str, sharpness: tuple[float, ...]) -> None:
    options: dict[str, Any] = {"precision": precision, "max_epochs": 2}
    plain = fitted(CoOp(**COMMON), **options)
    for each in sharpness:
        assert torch.equal(fitted(sapt(rho=0.0, sharpness=each), **options), plain)
    assert not torch.equal(fitted(sapt(sharpness=sharpness[-1]), **options), plain)


@pytest.mark.parametrize("sharpness", [1.0, 0.4])
def test_equals_a_plain_loop(sharpness: float) -> None:
    """SAM written down in float64, on open_clip's own text tower and whole sequences."""
    method = Recorded(**COMMON, rho=0.3, sharpness=sharpness)
    trainer(max_epochs=2).fit(method, data())
    clip = load_clip(DEMO)
    model, names = clip.model.double(), list(method.class_names or ())
    tokens = clip.tokenizer([f"a photo of a {name}." for name in names])
    embedded = model.token_embedding(tokens)

    def loss_at(context: Tensor, features: Tensor, label: Tensor) -> Tensor:
        x = torch.cat([embedded[:, :1], context.expand(len(names), -1, -1), embedded[:, 5:]], dim=1)
        x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask.double())
        x = model.ln_final(x)[torch.arange(len(names)), tokens.argmax(dim=-1)]
        text = F.normalize(x @ model.text_projection, dim=-1)
        return F.cross_entropy(model.logit_scale.exp() * features.double() @ text.T, label)

    context = embedded[0, 1:5].clone()
    velocity = torch.zeros_like(context)
    assert len(method.passes) == 8
    for step in range(4):
        features, label, _ = method.passes[2 * step]
        again, _, moved = method.passes[2 * step + 1]
        assert again is features  # encoded once
        x = context.clone().requires_grad_()
        (g,) = torch.autograd.grad(loss_at(x, features, label), x)
        e = 0.3 * g / sum(float(value) ** 2 for value in g.flatten()) ** 0.5
        assert torch.allclose(moved.double(), context + e, atol=2e-5), step
        x = (context + e).requires_grad_()
        (worst,) = torch.autograd.grad(loss_at(x, features, label), x)
        gradient = (1 - sharpness) * g + sharpness * worst + 5e-4 * context
        velocity = gradient if step == 0 else 0.9 * velocity + gradient
        context = context - (0.2 if step < 2 else 0.1) * velocity
        assert torch.allclose(method.contexts[step + 1].double(), context, atol=2e-5), step
    assert (method.contexts[-1] - method.contexts[0]).abs().max() > 1e-2


def test_class_specific_contexts_move_as_one_block() -> None:
    method = Recorded(**COMMON, prompt=PromptSpec(class_specific=True))
    trainer(max_steps=1).fit(method, data())
    (_, _, start), (_, _, moved) = method.passes
    assert start.shape == (16, 4, 128)
    assert float(torch.linalg.vector_norm(moved - start)) == pytest.approx(0.5, rel=1e-4)


def test_what_is_logged_and_counted() -> None:
    method = sapt(rho=0.05)
    run = trainer(max_epochs=2)
    run.fit(method, data())
    assert run.global_step == 4
    assert run.callback_metrics["train/increase"] > 0
    assert run.callback_metrics["train/loss"] > 0
    stopped = trainer(max_steps=3, max_epochs=9)
    stopped.fit(sapt(), data())
    assert stopped.global_step == 3


def test_the_rate_is_stepped_once_an_epoch_as_coops() -> None:
    def rates(kind: type[Any]) -> list[float]:
        found: list[float] = []

        class Watched(kind):  # type: ignore[misc]
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                found.append(self.trainer.optimizers[0].param_groups[0]["lr"])

        trainer(max_epochs=4).fit(Watched(**{**COMMON, "warmup_epochs": 1}), data())
        return found

    found = rates(SAPT)
    assert found == rates(CoOp)
    assert len(set(found)) == 4


def test_an_exception_in_the_second_pass_leaves_the_prompt_as_it_was() -> None:
    class Fails(Recorded):
        def source_loss(self, features: Tensor, label: Tensor) -> Tensor:
            loss = super().source_loss(features, label)
            if len(self.passes) == 4:
                raise RuntimeError("the lights went out")
            return loss

    method = Fails(**COMMON)
    with pytest.raises(RuntimeError, match="lights"):
        trainer().fit(method, data())
    before, moved = method.passes[2][2], method.passes[3][2]
    assert not torch.equal(moved, before)
    assert method.context.detach().numpy().tobytes() == before.numpy().tobytes()
    assert torch.equal(before, method.contexts[1])


def test_resuming_equals_going_on(tmp_path: Path) -> None:
    whole = fitted(sapt(warmup_epochs=1), max_epochs=3)

    first = sapt(warmup_epochs=1)
    checkpoint = interrupted(first, data(), tmp_path)
    assert not torch.equal(first.context, whole)
    second, run = sapt(warmup_epochs=1), trainer(max_epochs=3)
    run.fit(second, data(), ckpt_path=checkpoint)
    assert torch.equal(second.context, whole)
    assert run.global_step == 6


class ScaledOnly(MixedPrecision):
    """The loss scaling of 16-mixed around computations in float32."""

    def forward_context(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _scaling(scale: float, kind: type[MixedPrecision] = ScaledOnly) -> tuple[MixedPrecision, torch.amp.GradScaler]:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return kind("16-mixed", "cpu", scaler), scaler


@pytest.mark.parametrize("sharpness", [1.0, 0.4])
def test_the_loss_scale_changes_nothing(sharpness: float) -> None:
    """Powers of two are exact, so every bit must be the same."""
    plain = fitted(sapt(sharpness=sharpness))
    for scale in (2.0**-20, 2.0**16):
        plugin, _ = _scaling(scale)
        assert torch.equal(fitted(sapt(sharpness=sharpness), plugins=[plugin]), plain)


@pytest.mark.parametrize("which", [0, 1])
def test_an_overflow_of_either_pass_skips_the_step(which: int) -> None:
    class Overflows(Recorded):
        def source_loss(self, features: Tensor, label: Tensor) -> Tensor:
            loss = super().source_loss(features, label)
            return loss * float("inf") if len(self.passes) == 3 + which else loss

    plugin, scaler = _scaling(1024.0)
    method = Overflows(**COMMON)
    trainer(plugins=[plugin], max_epochs=2).fit(method, data())
    first, second, third, _ = method.contexts[1:]
    assert torch.equal(second, first)
    assert not torch.equal(third, second)
    assert third.isfinite().all()
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_half_precision_is_close(precision: str, dtype: torch.dtype) -> None:
    """How far the prompt moves is as exact as the dtype allows, on any CPU.

    A logit is the logit scale times the product of two unit features, each rounded to the dtype at least once: its
    error is up to 2 * scale * u, with u half the dtype's epsilon. The softmax, and with it the gradient, is relatively
    as wrong; two steps add up. A larger rho magnifies it: the loss is not linear that far away.
    """
    plugins = [_scaling(1024.0, MixedPrecision)[0]] if dtype == torch.float16 else None
    options: dict[str, Any] = {"plugins": plugins} if plugins else {"precision": precision}
    mixed, exact = fitted(sapt(rho=0.05), **options), fitted(sapt(rho=0.05))
    assert mixed.dtype == torch.float32
    start = load_clip(COMMON["clip"])
    words = start.model.token_embedding(start.tokenizer(["a photo of a"]))[0, 1:5]
    bound = 2 * 2 * float(start.logit_scale) * torch.finfo(dtype).eps / 2
    assert 0 < float((mixed - exact).norm() / (exact - words).norm()) < bound


TWO = """
from fits import trainer
from methods.test_sapt import data, sapt

def fit_all(rank):
    for name, options in {runs!r}.items():
        method = sapt(**options)
        trainer(devices=2, strategy="ddp").fit(method, data(batch_size=4))
        torch.save(method.context.detach(), {folder!r} + "/" + name + str(rank))
"""


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    runs = {"together": {"sharpness": 0.4}, "local": {"sharpness": 0.4, "local_ascent": True}}
    in_two_processes(TWO.format(runs=runs, folder=str(tmp_path)), tmp_path)
    contexts = {name: [torch.load(tmp_path / f"{name}{rank}") for rank in range(2)] for name in runs}
    for pair in contexts.values():
        assert torch.equal(*pair)
    alone = fitted(sapt(sharpness=0.4))
    assert torch.allclose(contexts["together"][0], alone, atol=1e-6)
    assert float((contexts["local"][0] - alone).abs().max()) > 1e-4


SMALL = ["--model.clip.model", "small-rn", "--model.clip.pretrained", "null"]
SOURCE = ["--data", "FolderSourceData", "--data.val_shots", "1", "--data.batch_size", "2", "--data.workers", "0", *CPU]


@pytest.mark.usefixtures("small_models")
def test_a_resnet_through_the_command_line(cli: Cli, images: Path) -> None:
    args = ["fit", "--model", "SAPT", *SMALL, *SOURCE, "--data.root", str(images), "--trainer.max_epochs", "2"]
    run = cli(*args, "--model.lr", "0.5", "--model.warmup_epochs", "0")
    assert run.code == 0, run.err
    assert load_file(run.folder / "prompt.safetensors")["context"].shape == (4, 16)
    written = run.folder / "prompt.safetensors"
    given = ["--model.prompt.file", str(written), "--data", "ImageFolderData", "--data.root", str(images), *CPU]
    tested = cli("test", "--model", "ZeroShot", *SMALL, *given, "--data.workers", "0")
    assert tested.code == 0, tested.err
    assert tested.results["n"] == 6


def test_the_prompt_that_comes_with_the_demo() -> None:
    file = Path(__file__).parents[2] / "lightning_configs" / "demo" / "sapt.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = load_prompt(demo.PROMPTS["demo-sapt"])
    expected = {"method": "sapt", "data": "demo-source-base-16-shot", "epochs": str(config["trainer"]["max_epochs"])}
    assert expected.items() <= found.notes.items()
    assert (found.model, found.words, found.position) == ("lorattt-demo", "a photo of a", "end")
    texts = []
    for name in ("demo-sapt", str(demo.PROMPTS["demo-sapt"]), "demo"):
        method = ZeroShot(clip=COMMON["clip"], prompt=PromptSpec(file=name))
        method.use_classes(["red circle", "blue square", "a cross"])
        texts.append(method.text)
    assert torch.equal(texts[0], texts[1])
    assert not torch.allclose(texts[0], texts[2], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -0.1}, "model.rho -0.1: must be a finite number of at least 0"),
        ({"rho": float("inf")}, "model.rho inf: must be"),
        ({"sharpness": float("nan")}, "model.sharpness nan: must be a finite number of at least 0"),
        ({"sharpness": -1.0}, "model.sharpness -1.0: must be"),
        ({"lr": -1.0}, "model.lr -1.0: must be"),
    ],
)
def test_numbers_without_meaning(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        sapt(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.sharpness", ".nan"], "model.sharpness nan: must be a finite number of at least 0"),
        (["--trainer.gradient_clip_val", "1"], "gradient clipping"),
    ],
)
def test_one_clear_line(args: list[str], message: str, cli: Cli) -> None:
    tiny = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
    source = ["--data", "DemoSourceData", "--data.shots", "1", "--data.val_shots", "0", *CPU]
    run = cli("fit", "--model", "SAPT", *tiny, *source, "--trainer.max_epochs", "1", *args)
    run.refused(message)
