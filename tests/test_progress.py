"""What a run shows of its progress: accuracy so far, images a second, time left; as a bar, in a log, beside Rich."""

import re
from typing import Any

import pytest
import torch

from conftest import CPU, DEMO, ZERO, Cli
from lorattt.callbacks import progress
from lorattt.callbacks.progress import AccuracyBar, RunProgress
from lorattt.errors import UserError
from lorattt.show import format_duration, speed

FIT = ["fit", "--model", "CoOp", "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo", *CPU]
FIT += ["--data", "DemoSourceData", "--data.shots", "1", "--data.val_shots", "1", "--data.limit", "12"]
FIT += ["--data.batch_size", "6", "--trainer.max_epochs", "2"]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress.time, "monotonic", found.monotonic)
    return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "in_lines", lambda: False)


def _batch(labels: list[int], before: list[int], after: list[int]) -> dict[str, Any]:
    fallback = torch.zeros(len(labels), dtype=torch.bool)
    answer = {"before": torch.eye(3)[before], "after": torch.eye(3)[after], "fallback": fallback}
    return {"label": torch.tensor(labels), "methods": {"mine": answer}}


# --- the numbers --------------------------------------------------------------------------------------


def test_accuracy_speed_and_time_left(seconds: Clock) -> None:
    counts = RunProgress(AccuracyBar())
    counts.start(5)
    assert counts.text == ""
    seconds.now += 4
    counts.count(_batch([0, 1, 2], [0, 0, 0], [0, 1, 0]))
    seconds.now += 4
    counts.count(_batch([-1, 2, 2], [0, 2, 0], [0, 2, 2]))  # the first one's label is not known
    assert counts.text == "top-1 40.0 -> 80.0 %, 0.75 images/s, 0:00:12 left"


def test_a_resumed_run_counts_all_in_accuracy_and_its_own_in_speed(seconds: Clock) -> None:
    counts = RunProgress(AccuracyBar())
    counts.start(2, right=(90, 30, 60))
    seconds.now += 5
    counts.count(_batch([1] * 10, [0] * 10, [1] * 10))
    assert counts.text == "top-1 30.0 -> 70.0 %, 2.0 images/s, 0:00:05 left"


def test_of_several_devices_it_is_said_whose_it_is(seconds: Clock) -> None:
    counts = RunProgress(AccuracyBar())
    counts.start(1, world=4)
    seconds.now += 1
    counts.count(_batch([0], [0], [0]))
    assert counts.text.endswith("1.0 images/s, 0:00:00 left, of the first of 4 devices alone")


def test_images_without_labels_and_without_an_end(seconds: Clock) -> None:
    counts = RunProgress(AccuracyBar())
    counts.start(float("inf"))
    seconds.now += 2
    counts.count(_batch([-1, -1], [0, 0], [0, 0]))
    assert counts.text == "1.0 images/s"


@pytest.mark.parametrize(("given", "shown"), [(0.4, "0:00:00"), (61, "0:01:01"), (90_000, "25:00:00")])
def test_clock(given: float, shown: str) -> None:
    assert format_duration(given) == shown


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(1234.56, "1234.6"), (1.04, "1.0"), (0.5, "0.50"), (0.04167, "0.042"), (0.00031, "0.00031"), (0, "0.0")],
)
def test_a_slow_model_has_a_speed(rate: float, shown: str) -> None:
    assert speed(rate) == shown


# --- in a log -------------------------------------------------------------------------------------------


def _lines(out: str, doing: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(doing)]


def test_a_log_has_a_line_now_and_then(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cli("test", *ZERO, *DEMO)
    assert run.code == 0, run.err
    assert [line[:20] for line in _lines(run.out, "testing")] == ["testing: 0/2 batches", "testing: 2/2 batches"]
    assert "\r" not in run.out
    monkeypatch.setattr(progress, "SECONDS", 0)
    run = cli("test", *ZERO, *DEMO)
    first, second, third = _lines(run.out, "testing")
    about = r"top-1 [\d.]+ -> [\d.]+ %, [\d.]+ images/s, 0:00:\d\d left"
    assert first == "testing: 0/2 batches"
    assert re.fullmatch(rf"testing: 1/2 batches: {about}", second)
    shown = 100 * run.results["top1_before"], 100 * run.results["top1_after"]
    assert third.startswith(f"testing: 2/2 batches: top-1 {shown[0]:.1f} -> {shown[1]:.1f} %, ")
    assert third.endswith(" 0:00:00 left")


def test_the_seconds_between_two_lines(cli: Cli, seconds: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 batches, each of 20 s: every second one is a line, and speed and time left are those of the clock."""
    count = RunProgress.count

    def slow(self: RunProgress, outputs: Any) -> None:
        seconds.now += 20
        count(self, outputs)

    monkeypatch.setattr(RunProgress, "count", slow)
    run = cli("predict", *ZERO, *DEMO, "--data.images", "12", "--data.batch_size", "1")
    assert run.code == 0, run.err
    lines = _lines(run.out, "predicting")
    assert [int(re.findall(r"\d+", line)[0]) for line in lines] == [0, 2, 4, 6, 8, 10, 12]
    assert lines[2].endswith("0.050 images/s, 0:02:40 left")


def test_a_resumed_run_in_a_log(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorattt.callbacks.journal import Journal

    args = ["test", *ZERO, *DEMO, "--data.batch_size", "1", "--run.folder", "run"]
    append, left = Journal.append, [4]

    def limited(journal: Journal, entries: list[dict[str, Any]]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise UserError("enough")
        append(journal, entries)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", limited)
        assert cli(*args).code == 2
    monkeypatch.setattr(progress, "SECONDS", 0)
    run = cli(*args)
    lines = _lines(run.out, "testing")
    assert [line.split()[1] for line in lines] == ["4/6", "5/6", "6/6"]
    shown = 100 * run.results["top1_before"], 100 * run.results["top1_after"]
    assert f"top-1 {shown[0]:.1f} -> {shown[1]:.1f} %" in lines[-1]


def test_a_fit_in_a_log(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    run = cli(*FIT)
    assert run.code == 0, run.err
    lines = _lines(run.out, "fitting")
    assert lines[0] == "fitting: epoch 0, 2 batches each"
    places = [re.match(r"fitting: epoch (\d), (\d)/2 batches: train/loss [\d.e-]+", line) for line in lines[1:]]
    assert [match.groups() if match else None for match in places] == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    assert "val/top1" in lines[-1]
    assert lines[-1].endswith("0:00:00 left")
    assert "v_num" not in run.out


# --- on a terminal --------------------------------------------------------------------------------------


def test_a_bar_on_a_terminal(cli: Cli, terminal: None) -> None:
    run = cli("test", *ZERO, *DEMO)
    assert run.code == 0, run.err
    assert "testing:" not in run.out
    last = run.out.split("\n\nzero_shot on")[0].splitlines()[-1].split("\r")[-1]
    shown = 100 * run.results["top1_before"], 100 * run.results["top1_after"]
    numbers = rf"top-1 {shown[0]:.1f} -> {shown[1]:.1f} %, [\d.]+ images/s, 0:00:00 left"
    assert re.search(rf"100%\|.*\| 2/2 \[00:\d\d, {numbers}\]", last), last
    last = cli("predict", *ZERO, *DEMO).out
    assert re.search(r"2/2 \[00:\d\d, (top-1 [^,]+, )?[\d.]+ images/s, 0:00:00 left\]", last)


def test_the_losses_of_a_fit_on_a_terminal(cli: Cli, terminal: None) -> None:
    run = cli(*FIT)
    assert run.code == 0, run.err
    assert re.search(r"Epoch 1.*2/2 .*train/loss=[\d.e-]+.*val/top1=", run.out)
    assert "v_num" not in run.out


def test_no_progress(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    assert "testing" not in cli("test", *ZERO, *DEMO, "--trainer.enable_progress_bar", "false").out


# --- another bar ----------------------------------------------------------------------------------------


def test_lightnings_rich_bar(cli: Cli, terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    from rich.progress import Progress

    told: list[str] = []
    update = Progress.update

    def noted(self: Progress, task: Any, **values: Any) -> None:
        told.extend([values["description"]] if "description" in values else [])
        update(self, task, **values)

    monkeypatch.setattr(Progress, "update", noted)
    run = cli("test", *ZERO, *DEMO, "--trainer.callbacks", "RichProgressBar")
    assert run.code == 0, run.err
    assert len(told) == 2
    shown = 100 * run.results["top1_before"], 100 * run.results["top1_after"]
    assert told[-1].startswith(f"top-1 {shown[0]:.1f} -> {shown[1]:.1f} %, ")
    assert told[-1].endswith(" images/s, 0:00:00 left")


def test_lightnings_rich_bar_in_a_log(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setattr(progress, "SECONDS", 0)
    run = cli("predict", *ZERO, *DEMO, "--trainer.callbacks", "RichProgressBar")
    assert run.code == 0, run.err
    lines = [line for line in run.out.splitlines() if "predicting: " in line]
    assert len(lines) == 3
    assert "2/2 batches" in lines[-1]


def test_whose_bar() -> None:
    from lightning.pytorch.callbacks import RichProgressBar, Timer, TQDMProgressBar

    assert [type(each) for each in progress.progress(None)] == [AccuracyBar, RunProgress]
    assert [type(each) for each in progress.progress([Timer()])] == [AccuracyBar, RunProgress]
    assert progress.progress(TQDMProgressBar()) == []
    pytest.importorskip("rich", reason="rich is not installed")
    assert [type(each) for each in progress.progress([RichProgressBar()])] == [RunProgress]
