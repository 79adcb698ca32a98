"""The benchmarks run and compare like with like; no time is asserted."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import demo as demo_benchmark
from benchmarks import episodes

ROOT = Path(__file__).parent.parent


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
    report = demo_benchmark.summarise({"noise": values})
    gain = report["domains"]["noise"]["gain"]["both"]
    assert gain["mean"] == pytest.approx(25.0)
    assert gain["high"] - gain["mean"] == pytest.approx(1.96 * 50 / 2)
    assert report["mean of shifted"]["accuracy"]["zero-shot"] == pytest.approx(50.0)
