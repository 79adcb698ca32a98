"""The benchmarks run and compare like with like; no time is asserted."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import demo as demo_benchmark
from benchmarks import episodes, sapt_sweep
from benchmarks import prompts as prompts_benchmark
from benchmarks import tlla as tlla_benchmark
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.data.demo import DemoImages
from lorattt.prompts.files import load_prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt

ROOT = Path(__file__).parent.parent
# A fit of seconds: the 16 held-out compositions, an image each.
QUICK = ["--", "--data.classes", "new", "--data.shots", "1", "--data.val_shots", "1", "--data.workers", "0"]
QUICK += ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]


def test_episodes_on_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    arguments = ["episodes", "--models", "demo", "--images", "2", "--repeats", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    episodes.main()
    assert "ref/ours" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    assert row["views"] == 64
    assert row["largest_logit_difference"] < 1e-3
    assert set(row["seconds_per_image"]) == {"plain", "ours", "reference"}
    assert row["reference_over_ours"] == row["seconds_per_image"]["reference"] / row["seconds_per_image"]["ours"]


def test_demo_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "accuracy.json"
    config = ROOT / "lightning_configs" / "demo" / "lora_ttt.yaml"
    domains = ["--domains", "source", "noise", "blur"]
    arguments = ["demo", "--config", str(config), "--images", "6", "--split", "val", *domains, "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    demo_benchmark.main()
    report = json.loads(out.read_text())
    shifted = [report["domains"][domain]["accuracy"]["both"] for domain in ("noise", "blur")]
    assert report["mean of shifted"]["accuracy"]["both"] == pytest.approx(sum(shifted) / 2)


def test_paired_interval() -> None:
    """By hand: of 4 scenes, one is won and none lost; the difference is 25 points with deviation 50."""
    values = torch.tensor([[1.0, 0.0, 0.0, 1.0]] + [[1.0, 1.0, 0.0, 1.0]] * 4)
    report = demo_benchmark.summarise({"noise": values}, demo_benchmark.COLUMNS)
    gain = report["domains"]["noise"]["gain"]["both"]
    assert gain["mean"] == pytest.approx(25.0)
    assert gain["high"] - gain["mean"] == pytest.approx(1.96 * 50 / 2)
    assert report["mean of shifted"]["accuracy"]["zero-shot"] == pytest.approx(50.0)


def test_sweep_of_radii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = ROOT / "lightning_configs" / "demo" / "sapt.yaml", tmp_path / "sweep"
    arguments = ["sweep", "-c", str(config), "--rhos", "0.3", "0", "--seeds", "1", "2", "--out", str(out), *QUICK]
    monkeypatch.setattr(sys, "argv", list(arguments))
    sapt_sweep.main()
    report = json.loads((out / "sweep.json").read_text())
    assert [row["rho"] for row in report["rows"]] == [0.0, 0.3]
    for row in report["rows"]:
        for seed, top1, loss in zip((1, 2), row["top1"], row["loss"], strict=True):
            prompt = load_prompt(out / f"rho-{row['rho']:g}-seed-{seed}" / "prompt.safetensors")
            assert top1 == pytest.approx(100 * float(prompt.notes["validation_top1"]))
            assert loss == float(prompt.notes["validation_loss"])
            assert prompt.notes["method"] == "sapt"
    assert (out / "sweep.md").read_text().count("chosen |") == 1
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit, match="2"):
        sapt_sweep.main()


def test_the_largest_radius_within_the_margin_is_chosen() -> None:
    values = {0.0: [99.0, 97.0], 0.1: [99.0, 98.0], 0.3: [97.5, 96.5], 0.5: [96.0, 96.0]}
    rows = [{"rho": rho, "top1": top1, "loss": [0.1, 0.1], "seconds": 1.0} for rho, top1 in values.items()]
    assert sapt_sweep.summarise(rows, [1, 2], 1.0)["chosen"] == 0.3  # 97.0 against 98.0, not the best one's 98.5
    assert sapt_sweep.summarise(rows, [1, 2], 2.0)["chosen"] == 0.5
    assert sapt_sweep.summarise(rows, [1, 2], 0.0)["chosen"] == 0.1
    assert rows[0]["deviation"] == pytest.approx(2**0.5)


def test_tlla_and_its_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, configs = tmp_path / "accuracy.json", ROOT / "lightning_configs" / "demo"
    size = ["--images", "7", "--split", "val", "--domains", "source", "noise", "--views", "6", "--views-kept", "2"]
    given = ["--coop", str(configs / "coop.yaml"), "--sapt", str(configs / "sapt.yaml"), "--seeds", "1", "2"]
    arguments = ["tlla", *given, *size, "--directions", "2", "--out", str(tmp_path / "prompts"), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", [*arguments, *QUICK])
    tlla_benchmark.main()
    report = json.loads(out.read_text())
    files = {
        f"{name}-{seed}": tmp_path / "prompts" / f"{name}-seed-{seed}" / "prompt.safetensors"
        for name in ("coop", "sapt")
        for seed in (1, 2)
    }
    clip = load_clip(ClipSpec("lorattt-demo", "demo"))
    images = DemoImages("noise", 3, 7, "val")
    prompts = {name: build_prompt(PromptSpec(file=str(file)), clip, [], 0) for name, file in files.items()}
    expected = prompts_benchmark.measure(clip, images, prompts)
    row = report["domains"]["noise"]
    for column in ("CoOp", "SAPT"):
        values = [expected[f"{column.lower()}-{seed}"] for seed in (1, 2)]
        assert row["by_seed"][column] == pytest.approx(values)
        assert row["accuracy"][column] == pytest.approx(sum(values) / 2)
    assert set(row["gain"]) == {"SAPT", "STSS on CoOp", "STSS on SAPT"}
    assert report["mean of shifted"]["accuracy"] == row["accuracy"]
    # The prompts are there now, and are taken as they are.
    monkeypatch.setattr(sys, "argv", list(arguments))
    monkeypatch.setattr(tlla_benchmark, "fit", None)
    tlla_benchmark.main()
    assert json.loads(out.read_text()) == report


def test_shares_of_seeds() -> None:
    """Of two seeds and two scenes: CoOp is right once, SAPT three times."""
    right = torch.zeros(4, 2, 2)
    right[0, 0, 0] = 1
    right[1] = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    row = tlla_benchmark.report_of({"noise": right})["domains"]["noise"]
    assert row["accuracy"]["CoOp"] == 25.0
    assert row["by_seed"]["SAPT"] == [100.0, 50.0]
    assert row["deviation"]["SAPT"] == pytest.approx(50 / 2**0.5)
    assert row["gain"]["SAPT"]["mean"] == pytest.approx(50.0)
