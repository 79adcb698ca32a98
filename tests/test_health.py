"""Where the time of a run went, what went wrong in it, its trace, and views made on the device."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import DEMO, LORA, Cli, only_method
from lorattt.callbacks.results import STAGES, ResultsWriter
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.shared_views import SharedViews

SEVERAL = ["--model", "Several", "--model.methods", "[lora_ttt,zero_shot]", *LORA[2:]]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_views_made_on_the_device_give_the_same_files(cli: Cli, workers: str) -> None:
    written: dict[str, list[bytes]] = {}
    for place in ("workers", "device"):
        run = cli("test", *LORA, *DEMO, "--data.workers", workers, "--model.views.place", place, "--run.folder", place)
        assert run.code == 0, run.err
        folder = run.cwd / place
        written[place] = [
            (only_method(folder) / name).read_bytes() for name in ("predictions.csv", "predictions.jsonl")
        ]
        spent = json.loads((only_method(folder) / "results.json").read_text(encoding="utf-8"))["stages"]
        # Where workers make them, the device has nothing to do for a view.
        assert (spent["views"] > 0.1 * spent["encode"]) == (place == "device"), spent
    assert written["device"] == written["workers"]


@pytest.mark.parametrize("model", [LORA, SEVERAL], ids=["lora_ttt", "several"])
def test_stages_are_told_and_add_up(cli: Cli, model: list[str]) -> None:
    began = time.perf_counter()
    run = cli("test", *model, *DEMO)
    whole = time.perf_counter() - began
    assert run.code == 0, run.err
    results = json.loads((run.folder / "lora_ttt" / "results.json").read_text())
    spent = results["stages"]
    assert list(spent) == list(STAGES)
    assert all(value > 0 for value in spent.values())
    assert sum(spent.values()) < whole


def test_waiting_and_bringing_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lorattt.callbacks.results.time.perf_counter", lambda: now[0])

    class Data:
        fetched_at: float | None = None

    class Strategy:
        root_device = torch.device("cpu")

        def reduce(self, values: torch.Tensor, reduce_op: str) -> torch.Tensor:
            return 2 * values  # another device, with the same times

    class Trainer:
        datamodule, strategy, world_size = Data(), Strategy(), 2

    trainer: Any = Trainer()
    module = SimpleNamespace(clock=SimpleNamespace(seconds=dict), parts=SimpleNamespace(halved=0))
    times = ResultsWriter()
    times.on_run_start(trainer, None)
    for waited, brought, worked in ((5, 1, 100), (2, 3, 200)):
        now[0] += waited
        trainer.datamodule.fetched_at = now[0]
        now[0] += brought
        times.on_batch_start(trainer)
        now[0] += worked
        times.on_batch_end(None)
    spent, halved = times.stages(trainer, module, write=8.0)
    assert spent == {"decode": 7, "transfer": 4, "views": 0, "encode": 0, "adapt": 0, "write": 8}
    assert halved == 0


def test_a_batch_that_does_not_fit_is_halved_and_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli("test", *LORA, *DEMO, "--run.folder", "whole")
    plain = LoRATTT.classify

    def small(self: LoRATTT, views: SharedViews) -> Any:
        if len(views) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, views)

    monkeypatch.setattr(LoRATTT, "classify", small)
    halved = cli("test", *LORA, *DEMO, "--run.folder", "halved")
    assert (whole.code, halved.code) == (0, 0), halved.err
    found = [json.loads((only_method(whole.cwd / name) / "results.json").read_text()) for name in ("whole", "halved")]
    assert [each["batches_halved"] for each in found] == [0, 1]
    lines = [
        (only_method(whole.cwd / name) / "predictions.csv").read_text().splitlines() for name in ("whole", "halved")
    ]
    for one, other in zip(*lines, strict=True):
        assert one.split(",")[:5] == other.split(",")[:5]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["on a GPU", "on a CPU"],
)
def test_an_image_that_does_not_fit_ends_the_run_with_a_line(
    error: RuntimeError, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: LoRATTT, views: SharedViews) -> Any:
        raise error

    monkeypatch.setattr(LoRATTT, "classify", never)
    run = cli("test", *LORA, *DEMO)
    run.refused("model.views.number")


def test_images_that_the_model_has_no_answer_to_are_counted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LoRATTT.classify

    def overflowing(self: LoRATTT, views: SharedViews) -> Any:
        before, after, fallback = plain(self, views)
        before[views.index == views.index[0]] = float("nan")
        return before, after, fallback

    monkeypatch.setattr(LoRATTT, "classify", overflowing)
    run = cli("test", *LORA, *DEMO, "--run.folder", "run")
    assert (run.code, run.results["not_finite"]) == (0, 2), "the first image of each of two batches"
    assert "2 images have no finite answer" in run.out
    text = (run.method_folder / "results.json").read_text(encoding="utf-8")
    assert "NaN" not in text, "which JSON has not"
    assert (run.results["nll_before"], run.results["ece_before"]) == (None, None)
    assert run.results["nll_after"] > 0
    again = cli("test", *LORA, *DEMO, "--run.folder", "run")
    assert "by a run that is finished: nothing to do" in again.out
    assert "nan" in again.out


def test_the_first_batches_are_traced_where_asked(cli: Cli) -> None:
    run = cli("test", *LORA, *DEMO, "--profile", "true")
    assert run.code == 0, run.err
    trace = json.loads((run.folder / "trace.json").read_text(encoding="utf-8"))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert "aten::addmm" in names or "aten::linear" in names
    assert "Self CPU" in (run.folder / "trace.txt").read_text(encoding="utf-8")
    assert "trace.json" in run.out
    assert not (cli("test", *LORA, *DEMO).folder / "trace.json").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads what Linux tells of a process")
def test_memory_files_and_processes_are_given_back(tmp_path: Path) -> None:
    """The long run of 5,000 images is benchmarks.memory itself; this one sees what grows with every batch.

    In a process of its own: what earlier tests left is closed at any time.
    """
    root, report = Path(__file__).parent.parent, tmp_path / "memory.json"
    demo = root / "lightning_configs" / "demo" / "zero_shot.yaml"
    size = ["--images", "400", "--every", "20", "--json", str(report), "--", "--data.batch_size", "20"]
    command = [sys.executable, "-m", "benchmarks.memory", "-c", str(demo), *size]
    done = subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["growth"] < 0.05
    assert (found["files_left_open"], found["processes_left"]) == ([], [])
