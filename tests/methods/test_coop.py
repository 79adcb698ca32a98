"""CoOp against a plain training loop, its schedule against CoOp's stack, resuming, and what a checkpoint holds."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fits import DEMO, OPTIONS, interrupted, trainer
from lorattt.clip.load import load_clip
from lorattt.data.demo_source import DemoSourceData
from lorattt.errors import UserError
from lorattt.methods.coop import CoOp
from lorattt.prompts.files import load_prompt
from lorattt.prompts.prompt import PromptSpec


def data(**options: Any) -> DemoSourceData:
    return DemoSourceData(**{"shots": 1, "val_shots": 1, "batch_size": 16, **options})


def coop(**options: Any) -> CoOp:
    return CoOp(**{**OPTIONS, **options})


class Recorded(CoOp):
    """Keeps what it was given, and the context and rate of each step."""

    def on_train_start(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.contexts = [self.context.detach().clone()]
        self.rates: list[float] = []

    def source_loss(self, features: Tensor, label: Tensor) -> Tensor:
        self.seen.append((features.clone(), label.clone()))
        return super().source_loss(features, label)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.contexts.append(self.context.detach().clone())


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    method = Recorded(**{**OPTIONS, "warmup_epochs": 1, "lr": 0.05, "warmup_lr": 0.01})
    trainer(max_epochs=4).fit(method, data())
    return method


def test_equals_a_plain_loop(recorded: Recorded) -> None:
    """The same features through open_clip's own text tower, with torch's SGD and rates written down."""
    clip = load_clip(DEMO)
    names = list(recorded.class_names or ())
    tokens = clip.tokenizer([f"a photo of a {name}." for name in names])
    embedded = clip.model.token_embedding(tokens)
    words = embedded[0, 1:5]
    assert torch.equal(recorded.contexts[0], words)
    context = words.clone().requires_grad_()
    optimiser = torch.optim.SGD([context], lr=0.0, momentum=0.9, weight_decay=5e-4)
    length = tokens.shape[1]
    for step, (features, label) in enumerate(recorded.seen):
        x = torch.cat([embedded[:, :1], context.expand(len(names), -1, -1), embedded[:, 5:]], dim=1)
        x = clip.model.transformer(x + clip.model.positional_embedding[:length], attn_mask=clip.model.attn_mask)
        x = clip.model.ln_final(x)[torch.arange(len(names)), tokens.argmax(dim=-1)]
        text = F.normalize(x @ clip.model.text_projection, dim=-1)
        loss = F.cross_entropy(clip.logit_scale * features @ text.T, label)
        epoch = step // 3
        optimiser.param_groups[0]["lr"] = [0.01, 0.05, 0.05 * _cosine(1, 4), 0.05 * _cosine(2, 4)][epoch]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert torch.allclose(recorded.contexts[step + 1], context.detach(), atol=2e-5), step
    assert (recorded.contexts[-1] - recorded.contexts[0]).abs().max() > 1e-3


def _cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def test_every_epoch_sees_every_image_once_cut_anew(recorded: Recorded) -> None:
    labels = [torch.cat([label for _, label in recorded.seen[3 * e : 3 * e + 3]]) for e in range(4)]
    assert all(sorted(part.tolist()) == list(range(48)) for part in labels)
    assert labels[0].tolist() != labels[1].tolist()
    image = [torch.cat([f for f, _ in recorded.seen[3 * e : 3 * e + 3]])[labels[e] == 7] for e in range(2)]
    assert not torch.allclose(image[0], image[1])


def test_rates_are_those_of_coops_stack(recorded: Recorded) -> None:
    expected = [0.01] * 3 + [0.05] * 3 + [0.05 * _cosine(1, 4)] * 3 + [0.05 * _cosine(2, 4)] * 3
    assert recorded.rates == pytest.approx(expected)


def test_resuming_equals_going_on(tmp_path: Path) -> None:
    whole = coop(warmup_epochs=1)
    trainer(max_epochs=3).fit(whole, data())

    first = coop(warmup_epochs=1)
    checkpoint = interrupted(first, data(), tmp_path)
    assert not torch.equal(first.context, whole.context)
    second = coop(warmup_epochs=1)
    trainer(max_epochs=3).fit(second, data(), ckpt_path=checkpoint)
    assert torch.equal(second.context, whole.context)
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["state_dict"].keys() == {"context"}
    assert checkpoint.stat().st_size < 100_000
    with pytest.raises(
        UserError, match=r"ckpt_path: it holds context \(4, 128\), this training has context \(2, 128\)"
    ):
        trainer(max_epochs=3).fit(coop(prompt=PromptSpec(tokens=2)), data(), ckpt_path=checkpoint)


def test_the_prompt_alone_is_written(tmp_path: Path) -> None:
    method = coop(prompt=PromptSpec(words="a_drawing_of", position="middle"))
    trainer(max_epochs=1).fit(method, data())
    method.save_prompt(tmp_path / "prompt.safetensors")
    prompt = load_prompt(tmp_path / "prompt.safetensors")
    assert torch.equal(prompt.context, method.context.detach())
    assert (prompt.position, prompt.words, prompt.model) == ("middle", "a drawing of", "lorattt-demo")


def test_class_specific_and_random_contexts() -> None:
    method = coop(prompt=PromptSpec(tokens=3, class_specific=True))
    trainer(max_epochs=1, limit_train_batches=1).fit(method, data())
    assert method.context.shape == (48, 3, 128)
    assert method.prompt().class_names == tuple(method.class_names or ())


def test_validation_counts_right_answers() -> None:
    method, source = coop(lr=0.0), data(val_shots=2)
    fitted = trainer(max_epochs=1)
    fitted.fit(method, source)
    text = method.clip.text_features(method.class_names or [], "single")
    right = 0
    for batch in source.val_dataloader():
        logits = method.clip.image_features(batch["views"][:, 0]) @ text.T
        right += int((logits.argmax(-1) == batch["label"]).sum())
    assert float(fitted.callback_metrics["val/top1"]) == pytest.approx(100 * right / 96)
    assert right > 70


def test_nothing_but_the_context_moves() -> None:
    method = coop(lr=0.1)
    before = {name: value.clone() for name, value in method.clip.state_dict().items()}
    trainer(max_epochs=1).fit(method, data())
    assert all(torch.equal(value, before[name]) for name, value in method.clip.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "model.lr -1.0: must be a finite number of at least 0"),
        ({"warmup_epochs": -1}, "model.warmup_epochs -1: must be"),
        ({"momentum": float("nan")}, "model.momentum nan: must be"),
    ],
)
def test_refuses_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        coop(**options)
