"""A run's predictions do not depend on how its images are batched, loaded, ordered or shared out."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import LORA, ZERO, Cli
from lorattt.data.demo import DemoData

TOLERANCE = 1e-4
NUMBERS = ("confidence_before", "confidence_after", "entropy_before", "entropy_after")


class ShuffledDemoData(DemoData):
    """The same images under the same numbers, met in another order."""

    def __init__(self, *, images: int = 9, batch_size: int = 4, workers: int = 0) -> None:
        super().__init__(images=images, batch_size=batch_size, workers=workers)
        random.Random(1).shuffle(self.indices)
        assert self.indices != sorted(self.indices)


def _args(data: str, images: int, batch_size: int, workers: int) -> list[str]:
    options = {"images": images, "batch_size": batch_size, "workers": workers}
    given = [text for key, value in options.items() for text in (f"--data.{key}", str(value))]
    return [*LORA, "--model.views.number", "20", "--data", data, *given, "--trainer.accelerator", "cpu"]


def _assert_same(one: list[dict[str, str]], other: list[dict[str, str]]) -> None:
    assert [row["index"] for row in one] == [row["index"] for row in other]
    for a, b in zip(one, other, strict=True):
        for key, value in a.items():
            if key in NUMBERS:
                assert float(value) == pytest.approx(float(b[key]), abs=TOLERANCE), (a["index"], key)
            else:
                assert value == b[key], (a["index"], key)


def test_batches_workers_and_order(cli: Cli) -> None:
    reference = cli("test", *_args("DemoData", 9, 4, 0), "--trainer.devices", "1").rows
    assert [row["index"] for row in reference] == [str(i) for i in range(9)]
    for data, batch_size, workers in (
        ("DemoData", 1, 0),
        ("DemoData", 32, 1),
        ("DemoData", 4, 2),
        ("ShuffledDemoData", 4, 0),
    ):
        run = cli("test", *_args(data, 9, batch_size, workers), "--trainer.devices", "1")
        assert run.code == 0, run.err
        _assert_same(run.rows, reference)


def _in_two_processes(args: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lorattt", "test", *args, "--run.folder", str(folder)]
    return subprocess.run(
        [*command, "--trainer.devices", "2", "--trainer.strategy", "ddp"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_two_processes(cli: Cli, tmp_path: Path) -> None:
    reference = cli("test", *_args("DemoData", 7, 2, 0), "--trainer.devices", "1")
    folder = tmp_path / "two"
    done = _in_two_processes(_args("DemoData", 7, 2, 0), folder)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "lora_ttt", "metrics.csv"}
    left = {"results.json", "predictions.csv", "predictions.jsonl"}
    assert {path.name for path in (folder / "lora_ttt").iterdir()} == left
    assert (folder / "metrics.csv").read_text(encoding="utf-8").count("\n") == 2, "one process writes, one row"
    shown = [line for line in done.stdout.splitlines() if line.startswith("testing: ")]
    assert [line.split()[1] for line in shown] == ["0/2", "2/2"], "one process tells"
    assert shown[-1].endswith(" left, of the first of 2 devices alone")
    with (folder / "lora_ttt" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == [str(i) for i in range(7)]
    _assert_same(rows, reference.rows)
    assert done.stdout.count("written to") == 1
    results = json.loads((folder / "lora_ttt" / "results.json").read_text(encoding="utf-8"))
    for key in ("n", "top1_before", "top1_after", "top1_change_low", "top1_change_high", "top5_after", "fallbacks"):
        assert results[key] == pytest.approx(reference.results[key])
    for key in ("nll_before", "nll_after", "ece_before", "ece_after"):
        assert results[key] == pytest.approx(reference.results[key], abs=1e-3)


@pytest.mark.parametrize("name", ["cat/0.png", "dog/2.png"])
def test_unreadable_image_on_one_of_two_processes(name: str, images: Path, tmp_path: Path) -> None:
    """The other process, which waits for it, ends without a traceback of the library between them."""
    (images / name).write_bytes(b"no image")
    args = [*ZERO, "--data", "ImageFolderData", "--data.root", str(images), "--data.workers", "0"]
    done = _in_two_processes([*args, "--trainer.accelerator", "cpu"], tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert f"cannot read image {name}" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_methods_in_two_processes(cli: Cli, tmp_path: Path) -> None:
    settings = {
        "methods": ["zero_shot", "mta"],
        "clip": {"model": "lorattt-demo", "pretrained": "demo"},
        "views": {"number": 8},
    }
    config = tmp_path / "several.yaml"
    config.write_text(json.dumps({"model": {"class_path": "Several", "init_args": settings}}), encoding="utf-8")
    args = ["-c", str(config), *_args("DemoData", 7, 2, 0)[len(LORA) + 2 :]]
    reference = cli("test", *args, "--trainer.devices", "1").folder
    folder = tmp_path / "two"
    done = _in_two_processes(args, folder)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "metrics.csv", "zero_shot", "mta"}
    for name in settings["methods"]:
        assert {path.name for path in (folder / name).iterdir()} == {
            "results.json",
            "predictions.csv",
            "predictions.jsonl",
        }
        rows, expected = (
            list(csv.DictReader((place / name / "predictions.csv").read_text(encoding="utf-8").splitlines()))
            for place in (folder, reference)
        )
        assert [row["index"] for row in rows] == [str(i) for i in range(7)]
        _assert_same(rows, expected)
        ours, theirs = (
            json.loads((place / name / "results.json").read_text(encoding="utf-8")) for place in (folder, reference)
        )
        for key in ("n", "top1_before", "top1_after", "top1_change_low", "top5_after", "fallbacks", "shared_with"):
            assert ours[key] == pytest.approx(theirs[key])
        assert ours["nll_after"] == pytest.approx(theirs["nll_after"], abs=1e-3)
    assert done.stdout.count("written to") == 1
