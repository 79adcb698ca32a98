"""The benchmark of class features compares like with like; no time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import text


def test_loop_and_ours_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    started: list[str] = []

    def here(command: list[str], check: bool) -> None:
        """Each program in this process: starting another takes longer than all it does."""
        assert command[:3] == [sys.executable, "-m", "benchmarks.text"]
        started.append(command[command.index("--program") + 1])
        monkeypatch.setattr(sys, "argv", command[2:])
        text.main()

    monkeypatch.setattr(subprocess, "run", here)
    small = ["--classes", "7", "--part", "3", "--repeats", "1", "--width", "64"]
    monkeypatch.setattr(sys, "argv", ["text", *small, "--json", str(out)])
    text.main()
    assert started == ["loop", "ours", "whole"]
    assert "7 classes, parts of 3" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert set(report["rows"]) == set(started)
    for row in report["rows"].values():
        assert row["largest_features_difference"] < 1e-5
        assert row["largest_gradient_difference"] < 1e-4 * report["largest_gradient"]
        assert row["seconds"] > 0
    ratio = report["rows"]["loop"]["seconds"] / report["rows"]["ours"]["seconds"]
    assert report["loop_over_ours"]["seconds"] == ratio
