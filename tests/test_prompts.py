"""Prompts through the command line: learned, resumed, used by every method; and what is refused, in one line."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import CPU, DEMO, ZERO, Cli
from lorattt import demo
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.methods.coop import CoOp
from lorattt.prompts.files import Prompt, load_prompt, save_prompt

CONFIGS = Path(__file__).parents[1] / "lightning_configs" / "demo"
CLIP = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
SOURCE = ["--data", "DemoSourceData", "--data.shots", "1", "--data.val_shots", "1", "--data.batch_size", "16", *CPU]
COOP = ["--model", "CoOp", *CLIP, "--model.crop.scale", "[0.5, 1.0]", *SOURCE]
MTA = ["--model", "MTA", *CLIP, "--model.views.number", "10"]


def prompt_file(path: Path, context: Any = None, model: str = "lorattt-demo", names: Any = None) -> str:
    context = torch.randn(4, 128, generator=torch.Generator().manual_seed(0)) if context is None else context
    save_prompt(Prompt(context, "end", None, model, names), path)
    return str(path)


def test_fit_then_test_with_its_prompt(cli: Cli) -> None:
    fit = cli("fit", *COOP, "--trainer.max_epochs", "2", "--model.lr", "0.5", "--model.warmup_epochs", "0")
    assert fit.code == 0, fit.err
    prompt = fit.folder / "prompt.safetensors"
    assert f"prompt written to {prompt.relative_to(fit.cwd)}" in fit.out
    assert prompt.stat().st_size < 10_000
    assert (fit.folder / "checkpoints" / "last.ckpt").exists()
    left = {"config.yaml", "prompt.safetensors", "checkpoints", "metrics.csv"}
    assert {path.name for path in fit.folder.iterdir()} == left
    given = ["--model.prompt.file", str(prompt)]
    plain = cli("test", *ZERO, *DEMO).rows
    learned = cli("test", *ZERO, *DEMO, *given)
    assert learned.code == 0, learned.err
    reference = learned.rows
    assert reference != plain
    for method in (["--model", "TPT", *CLIP], ["--model", "LoRATTT", *CLIP], ["--model", "ZERO", *CLIP], MTA):
        run = cli("test", *method, *DEMO, "--model.views.number", "10", *given)
        assert run.code == 0, run.err
        # Before adaptation, all of them are zero-shot with that prompt.
        for ours, expected in zip(run.rows, reference, strict=True):
            assert ours["prediction_before"] == expected["prediction_after"]
            assert float(ours["confidence_before"]) == pytest.approx(float(expected["confidence_after"]), abs=1e-4)


def test_a_resumed_fit_ends_as_an_uninterrupted_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli("fit", *COOP, "--trainer.max_epochs", "3", "--run.folder", "whole")
    assert whole.code == 0, whole.err
    right, calls = CoOp.source_loss, []

    def dies(self: CoOp, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # in the middle of the second epoch
            raise RuntimeError("the lights went out")
        return right(self, *args)

    monkeypatch.setattr(CoOp, "source_loss", dies)
    with pytest.raises(RuntimeError, match="lights"):
        cli("fit", *COOP, "--trainer.max_epochs", "3", "--run.folder", "stopped")
    monkeypatch.setattr(CoOp, "source_loss", right)
    last = whole.cwd / "stopped" / "checkpoints" / "last.ckpt"
    resumed = cli("fit", *COOP, "--trainer.max_epochs", "3", "--run.folder", "resumed", "--ckpt_path", str(last))
    assert resumed.code == 0, resumed.err
    contexts = [load_file(whole.cwd / name / "prompt.safetensors")["context"] for name in ("whole", "resumed")]
    assert torch.equal(*contexts)


def test_several_methods_share_a_prompt(cli: Cli, tmp_path: Path) -> None:
    file = prompt_file(tmp_path / "p.safetensors")
    several = ["--model", "Several", "--model.methods", "[zero_shot, tpt, mta]", *CLIP, "--model.views.number", "10"]
    run = cli("test", *several, *DEMO, "--model.prompt.file", file)
    assert run.code == 0, run.err
    alone = cli("test", *ZERO, *DEMO, "--model.prompt.file", file)
    for name in ("zero_shot", "tpt", "mta"):
        results = json.loads(
            (next(run.cwd.rglob("several")) / "demo-noise" / "000" / name / "results.json").read_text()
        )
        assert results["nll_before"] == pytest.approx(alone.results["nll_after"], abs=1e-4)


def test_a_tuned_prompt_begins_with_its_words_whatever_the_templates(cli: Cli) -> None:
    several = ["--model", "Several", "--model.methods", "[zero_shot, tpt]", *CLIP, "--model.views.number", "10"]
    run = cli("test", *several, *DEMO, "--model.templates", "openai-7")
    assert run.code == 0, run.err
    folder = next(run.cwd.rglob("several")) / "demo-noise" / "000"
    before = [json.loads((folder / name / "results.json").read_text())["nll_before"] for name in ("zero_shot", "tpt")]
    assert before[0] != pytest.approx(before[1], abs=1e-4)
    assert before[1] == pytest.approx(cli("test", *ZERO, *DEMO).results["nll_before"], abs=1e-4)


class Code:
    """What a harmful checkpoint would hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


def test_a_pickle_with_code_does_not_run(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "model.pth.tar-50"
    torch.save({"state_dict": {"ctx": torch.zeros(4, 128)}, "optimizer": Code()}, file)
    run = cli("test", *ZERO, *DEMO, "--model.prompt.file", str(file))
    run.refused(str(file), "system")
    assert not (run.cwd / "harmed").exists()
    plain = tmp_path / "plain.pth.tar"
    plain.write_bytes(pickle.dumps(Code()))
    run = cli("test", *ZERO, *DEMO, "--model.prompt.file", str(plain))
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert not (run.cwd / "harmed").exists()


def test_a_checkpoint_of_coops_program_is_read(cli: Cli, tmp_path: Path) -> None:
    context = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    torch.save({"state_dict": {"ctx": context}, "epoch": 50, "val_result": None}, tmp_path / "model.pth.tar-50")
    ours = prompt_file(tmp_path / "p.safetensors", context)
    runs = [
        cli("test", *ZERO, *DEMO, "--model.prompt.file", str(file)) for file in (tmp_path / "model.pth.tar-50", ours)
    ]
    assert runs[0].code == 0, runs[0].err
    assert runs[0].rows == runs[1].rows


LONG = "a very long name of a class that nobody would give to anything that a picture can show, and " + "more " * 12


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        ({}, ["--model.prompt.tokens", "31"], "a context of 31 tokens is too long"),
        ({"context": torch.zeros(4, 512)}, [], "512"),
        ({"model": "ViT-B-16-quickgelu"}, [], "ViT-B-16-quickgelu"),
        ({}, ["--model.prompt.position", "front"], "front"),
        ({}, ["--model.class_names", f"[{LONG!r}{', b' * 63}]"], "tokens"),
        ({}, ["--model.templates", "openai-7"], "model.prompt and model.templates are both given"),
        ({}, ["--model.prompt.words", "a photo"], "prompt.file and prompt.words are both given"),
        ({"context": torch.zeros(3, 4, 128), "names": ("a", "b", "c")}, [], "class"),
    ],
    ids=["too long", "width", "model", "position", "names", "templates", "file and words", "other classes"],
)
def test_one_clear_line(make: dict[str, Any], args: list[str], message: str, cli: Cli, tmp_path: Path) -> None:
    random = "--model.prompt.tokens" in args
    file = [] if random else ["--model.prompt.file", prompt_file(tmp_path / "p.safetensors", **make)]
    run = cli("test", *ZERO, *DEMO, *file, *args)
    assert run.code == 2
    *notes, line = run.err.splitlines()
    assert all(note.startswith("lorattt: warning: model.class_names go to the data's classes") for note in notes)
    assert message in line
    assert ("p.safetensors" in run.err) == (file != [] and (not args or "front" in args))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["test", *ZERO, *SOURCE], "use BenchmarkData or DemoData"),
        (["validate", *COOP], "CoOp learns a prompt: use fit, then validate with --model ZeroShot"),
        (["test", *COOP[: -len(SOURCE)], *DEMO], "CoOp learns a prompt: use fit, then test with --model ZeroShot"),
        (["fit", *COOP[: -len(SOURCE)], *DEMO, "--trainer.max_epochs", "1"], "CoOp needs images to train on"),
        (["fit", "--model", "TPT", *CLIP, *SOURCE], "TPT has nothing to fit"),
        (["fit", *COOP, "--trainer.max_epochs", "-1"], "trainer.max_epochs: give the number of epochs"),
        (["fit", *COOP, "--trainer.max_epochs", "1", "--model.lr", "-1"], "model.lr -1.0: must be"),
        (["fit", *COOP, "--trainer.max_epochs", "1", "--model.crop.scale", "[0, 1]"], "crop.scale"),
        (["fit", *COOP, "--trainer.max_epochs", "1", "--ckpt_path", "gone.ckpt"], "gone.ckpt"),
        (["test", "--model", "TPT", *CLIP, *DEMO, "--model.prompt.file", "gone.safetensors"], "gone.safetensors"),
        (["test", "--model", "TPT", *CLIP, *DEMO, "--trainer.inference_mode", "true"], "TPT needs gradients"),
    ],
)
def test_training_refuses(args: list[str], message: str, cli: Cli) -> None:
    run = cli(*args)
    run.refused(message)


def test_the_prompt_that_comes_with_the_demo(cli: Cli) -> None:
    run = cli("test", *ZERO, *DEMO, "--model.prompt.file", "demo")
    assert run.code == 0, run.err
    config = yaml.safe_load((CONFIGS / "coop.yaml").read_text(encoding="utf-8"))
    found = load_prompt(demo.PROMPTS["demo"])
    assert found.model == "lorattt-demo"
    assert found.words == "a photo of a"
    assert found.notes["method"] == "coop"
    assert found.notes["epochs"] == str(config["trainer"]["max_epochs"])
    assert found.notes["data"] == "demo-source-base-16-shot"
    words = load_clip(ClipSpec("lorattt-demo", "demo")).text_tower.embed(torch.tensor([[320, 1125, 539, 320]]))[0]
    assert 0.001 < (found.context - words).abs().max() < 1  # learned, from these words on
