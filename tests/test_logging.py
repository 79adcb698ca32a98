"""What a run logs: metrics.csv in its own folder, TensorBoard and W&B there as well, whoever dies on the way."""

import csv
import errno
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.utilities import rank_zero_only

from conftest import CPU, DEMO, ZERO, Cli
from lorattt.callbacks.journal import Journal
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.run_csv import METRICS_FILE, RunCSV
from lorattt.callbacks.run_log import flat
from lorattt.errors import UserError
from lorattt.methods.coop import CoOp
from lorattt.report.runs import find_runs

CONFIGS = Path(__file__).parents[1] / "lightning_configs" / "trainer"
TENSORBOARD, WANDB = (["-c", str(CONFIGS / f"{name}.yaml")] for name in ("tensorboard", "wandb"))
CLIP = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
SOURCE = ["--data", "DemoSourceData", "--data.shots", "1", "--data.val_shots", "1", "--data.batch_size", "6", *CPU]
SOURCE += ["--data.limit", "12"]
FIT = ["fit", "--model", "CoOp", *CLIP, *SOURCE, "--trainer.log_every_n_steps", "1"]
QUIET = ["--trainer.enable_progress_bar", "false"]
SMALL = [*ZERO, *DEMO, *QUIET]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS_FILE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- metrics.csv --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_the_measures_of_a_run(command: str, cli: Cli) -> None:
    run = cli(command, *SMALL)
    assert run.code == 0, run.err
    assert {path.name for path in run.cwd.iterdir()} == {"runs"}, "no folder beside that of the run"
    (row,) = table(run.folder)
    assert row.pop("step") == "6"
    results = run.results
    assert {f"{command}/images_per_second", f"{command}/fallbacks", f"{command}/skipped"} <= row.keys()
    assert (f"{command}/top1_after" in row) == ("top1_after" in results)
    for key, value in row.items():
        assert float(value) == results[key.removeprefix(f"{command}/")], key


def test_several_methods(cli: Cli) -> None:
    several = ["--model", "Several", "--model.methods", "[zero_shot, mta]", *CLIP, "--model.views.number", "10"]
    run = cli("test", *several, *DEMO, *QUIET)
    assert run.code == 0, run.err
    (row,) = table(run.folder)
    for name in ("zero_shot", "mta"):
        stated = json.loads((run.folder / name / "results.json").read_text(encoding="utf-8"))
        assert float(row[f"test/{name}/top1_after"]) == stated["top1_after"]


def test_losses_and_the_learning_rate_of_a_fit(cli: Cli) -> None:
    epochs = ["--trainer.max_epochs", "3", "--model.lr", "0.5", "--model.warmup_epochs", "1"]
    run = cli(*FIT, *epochs, "--model.warmup_lr", "0.125", *QUIET)
    assert (run.code, run.err) == (0, "")
    assert not (run.cwd / "lightning_logs").exists()
    rows = table(run.folder)
    assert list(rows[0])[:2] == ["epoch", "step"]
    steps = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in steps] == list(range(len(steps)))
    of_epoch = len(steps) // 3
    assert [int(row["epoch"]) for row in steps] == [epoch for epoch in range(3) for _ in range(of_epoch)]
    # CoOp's schedule: a constant epoch, then the beginning of a cosine over three.
    rates = [0.125, *(0.5 * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in (0, 1))]
    assert [float(row["train/lr"]) for row in steps[::of_epoch]] == pytest.approx(rates)
    validated = [row for row in rows if row["val/top1"]]
    assert [int(row["step"]) for row in validated] == [of_epoch * (epoch + 1) - 1 for epoch in range(3)]


def test_the_last_step_is_logged_however_rarely_others_are(cli: Cli) -> None:
    run = cli(*FIT, "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "3", *QUIET)
    assert run.code == 0, run.err
    logged = [int(row["step"]) for row in table(run.folder) if row["train/loss"]]
    last = max(int(row["step"]) for row in table(run.folder))
    assert last != 2
    assert logged == sorted({*range(2, last, 3), last})
    assert "smaller than the logging interval" not in run.err


def test_a_fit_that_goes_on_keeps_its_rows(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies in the second epoch, goes on from the checkpoint of the first, and no step is there twice."""
    whole = cli(*FIT, "--trainer.max_epochs", "2", "--run.folder", "whole", *QUIET)
    assert whole.code == 0, whole.err
    right, calls = CoOp.source_loss, []
    steps = max(int(row["step"]) for row in table(Path("whole"))) + 1

    def dies(self: CoOp, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == steps:
            raise RuntimeError("the lights went out")
        return right(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(CoOp, "source_loss", dies)
        with pytest.raises(RuntimeError, match="lights"):
            cli(*FIT, "--trainer.max_epochs", "2", "--run.folder", "run", *QUIET)
    before = table(Path("run"))
    assert 0 < len(before) < len(table(Path("whole")))
    with Path("run", METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write("1,9")  # and the last line was cut short
    again = cli(
        *FIT, "--trainer.max_epochs", "2", "--run.folder", "run", "--ckpt_path", "run/checkpoints/last.ckpt", *QUIET
    )
    assert again.code == 0, again.err
    assert table(Path("run")) == table(Path("whole"))
    # Begun again without the checkpoint, it is another training from the first step on.
    other = cli(*FIT, "--trainer.max_epochs", "1", "--run.folder", "run", *QUIET)
    assert other.code == 0, other.err
    assert [row["step"] for row in table(Path("run")) if row["train/loss"]] == [str(step) for step in range(steps // 2)]


def test_a_test_that_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies when all is written but the journals are there; the row is there once."""
    args = ["test", *SMALL, "--run.folder", "run"]

    def dies(*_: object, **__: object) -> None:
        raise UserError("the lights went out")

    with monkeypatch.context() as patch:
        patch.setattr(PredictionsWriter, "teardown", dies)
        assert cli(*args).code == 2
    (first,) = table(Path("run"))
    again = cli(*args)
    assert again.code == 0, again.err
    (row,) = table(Path("run"))
    course = ("test/resumed", "test/images_per_second", "test/peak_memory_bytes")
    assert [row[key] for key in course] == [first[key] for key in course], "of the attempt that classified the images"


def test_other_commands_rows_stay(tmp_path: Path) -> None:
    logger = RunCSV()
    logger.place(tmp_path)
    logger.log_metrics({"epoch": 0, "train/loss": 1.5}, 0)
    logger.log_metrics({"test/top1_after": 0.5}, 10)
    for command, left in (("predict", 2), ("test", 1), ("fit", 0)):
        logger.start_command(command, 0)
        assert len(table(tmp_path)) == left


def test_a_column_that_comes_later(tmp_path: Path) -> None:
    logger = RunCSV()
    logger.log_metrics({"train/loss": 9.0}, 0)  # before there is a folder: nothing
    logger.place(tmp_path)
    assert not list(tmp_path.iterdir())
    logger.log_metrics({"train/loss": 0.1}, 0)
    logger.log_metrics({"a, b": 2.0, "epoch": 1}, 1)
    logger.log_metrics({"train/loss": float("nan")}, 2)
    assert table(tmp_path) == [
        {"epoch": "", "step": "0", "train/loss": "0.1", "a, b": ""},
        {"epoch": "1", "step": "1", "train/loss": "", "a, b": "2.0"},
        {"epoch": "", "step": "2", "train/loss": "nan", "a, b": ""},
    ]
    assert {path.name for path in tmp_path.iterdir()} == {METRICS_FILE}


@pytest.mark.parametrize("end", ["1,2", "1,2,3,4\n", "1,x,3\n", "\0\0\0", "1,2,3"])
def test_a_damaged_end_is_cut_off(tmp_path: Path, end: str) -> None:
    (tmp_path / METRICS_FILE).write_text("epoch,step,train/loss\r\n0,0,0.5\r\n" + end, encoding="utf-8", newline="")
    logger = RunCSV()
    logger.place(tmp_path)
    logger.log_metrics({"epoch": 0, "train/loss": 0.25}, 1)
    assert [(row["step"], row["train/loss"]) for row in table(tmp_path)] == [("0", "0.5"), ("1", "0.25")]


@pytest.mark.parametrize(
    "damage", ["\0\0\0", "\0" * 9 + "1,1,0.5\r\n", "1,1,\0\r\n", "1,1," + "9" * 200_000 + 'x"\r\n', '1,"1\r\n']
)
def test_damaged_lines_are_left_out_and_said(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """NUL bytes as a power failure leaves them, which Python 3.10's reader of CSV raises for, and what is no CSV."""
    text = f"epoch,step,train/loss\r\n0,0,0.5\r\n{damage}"
    (tmp_path / METRICS_FILE).write_text(text, encoding="utf-8", newline="")
    logger = RunCSV()
    logger.place(tmp_path)
    logger.log_metrics({"epoch": 0, "train/loss": 0.25}, 1)
    assert [(row["step"], row["train/loss"]) for row in table(tmp_path)] == [("0", "0.5"), ("1", "0.25")]
    assert capsys.readouterr().out == f"{tmp_path / METRICS_FILE}: 1 damaged or unfinished lines are left out\n"


def test_a_header_of_nul_bytes_is_no_table(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(b"\0" * 50)
    with pytest.raises(UserError, match=r"metrics\.csv: is no table of lorattt"):
        RunCSV().place(tmp_path)


@pytest.mark.parametrize("content", ["mine\n1\n", ""])
def test_a_file_of_somebody_else_is_left_alone(cli: Cli, content: str) -> None:
    Path("run").mkdir()
    Path("run", METRICS_FILE).write_text(content, encoding="utf-8")
    run = cli("test", *SMALL, "--run.folder", "run")
    run.refused(f"run/{METRICS_FILE}: is no table of lorattt: name another run.folder")
    assert Path("run", METRICS_FILE).read_text(encoding="utf-8") == content


def test_a_full_disk_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lorattt.callbacks.run_csv.atomic_write", full)
    run = cli("test", *SMALL, "--run.folder", "run")
    run.refused(f"cannot write run/{METRICS_FILE} ({os.strerror(errno.ENOSPC)})")


def test_only_the_first_device_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = RunCSV()
    logger.place(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger.log_metrics({"train/loss": 1.0}, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["null", "true"])
def test_lightnings_own_choice_is_in_the_folder_too(cli: Cli, given: str) -> None:
    run = cli("test", *SMALL, "--trainer.logger", given)
    assert (run.code, run.err) == (0, "")
    assert len(table(run.folder)) == 1
    assert {path.name for path in run.cwd.iterdir()} == {"runs"}


def test_no_logger(cli: Cli) -> None:
    run = cli("test", *SMALL, "--trainer.logger", "false")
    assert run.code == 0, run.err
    assert not (run.folder / METRICS_FILE).exists()
    fit = cli(*FIT, "--trainer.max_epochs", "1", "--trainer.logger", "false", *QUIET)
    assert (fit.code, fit.err) == (0, "")
    assert not (fit.folder / METRICS_FILE).exists()


def test_a_logger_of_lightnings_own_gets_the_same(cli: Cli) -> None:
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "elsewhere", "--trainer.logger.name", "a"]
    run = cli("test", *SMALL, *logger)
    assert run.code == 0, run.err
    (row,) = table(Path("elsewhere", "a", "version_0"))
    assert float(row["test/top1_after"]) == run.results["top1_after"]
    hyper = yaml.safe_load(Path("elsewhere", "a", "version_0", "hparams.yaml").read_text(encoding="utf-8"))
    assert hyper["model.clip.model"] == "lorattt-demo"


def test_a_report_takes_it_for_no_run(cli: Cli) -> None:
    fit = RunCSV()
    Path("runs", "fit").mkdir(parents=True)
    fit.place(Path("runs", "fit"))
    fit.log_metrics({"train/loss": 1.0}, 0)
    with pytest.raises(UserError, match="no results.json"):
        find_runs(["runs/fit"])
    assert cli("test", *SMALL, "--run.folder", "runs/test").code == 0
    assert [run.folder for run in find_runs(["runs"])] == [Path("runs/test/zero_shot")]


def test_the_flat_configuration() -> None:
    model = {"class_path": "lorattt.X", "init_args": {"lora": {"rank": 4}, "blocks": [-2, -1], "names": None}}
    found = flat({"seed_everything": 3, "model": model, "profile": False, "trainer": {"precision": "16"}})
    assert found == {
        "seed_everything": 3,
        "model": "lorattt.X",
        "model.lora.rank": 4,
        "model.blocks": "[-2, -1]",
        "profile": False,
        "trainer.precision": "16",
    }


# --- TensorBoard and W&B: stand-ins that write down what they are told -------------------------------------


_SUMMARY_WRITER = """
import json
from pathlib import Path

class SummaryWriter:
    def __init__(self, log_dir, **kwargs):
        self.file = Path(log_dir) / "events.out.tfevents.stand-in"
        self.tell("open", kwargs)
    def tell(self, *what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def add_scalar(self, key, value, step):
        self.tell("scalar", key, value, step)
    def add_summary(self, summary, step):
        self.tell("summary", summary, step)
    def _get_file_writer(self):
        return self
    def flush(self):
        pass
    def close(self):
        self.tell("close")
"""
_WANDB = """
import json
from pathlib import Path

run = None
class Settings:
    def update(self, values, allow_val_change=False):
        active.tell("config", values)
class Stand:
    def __init__(self, told):
        self.id, self.name, self.config = told["id"] or "abc123", told["name"], Settings()
        above = Path(told["dir"]) / "wandb"
        folder = above / f"run-20260101_00000{len(list(above.glob('*')))}-{self.id}"
        folder.mkdir(parents=True)
        self.file = folder / "told"
        self.tell("init", told)
    def tell(self, *what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def log(self, values):
        self.tell("log", values)
def init(**told):
    global active
    if told.get("entity") == "nobody":
        raise RuntimeError("api_key not configured\\n(no-tty)")
    active = Stand(told)
    return active
"""


def _package(folder: Path, name: str, content: str, **more: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(textwrap.dedent(content), encoding="utf-8")
    for module, text in more.items():
        (folder / name / f"{module}.py").write_text(text, encoding="utf-8")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    packages = tmp_path / "packages"
    _package(packages, "tensorboardX", _SUMMARY_WRITER, summary="def hparams(*what): return [*what], 'a', 'b'\n")
    _package(packages, "wandb", _WANDB, wandb_run="class Run: pass\n")
    _package(packages / "wandb", "sdk", "", lib="class RunDisabled: pass\n")
    monkeypatch.syspath_prepend(str(packages))
    for module in [name for name in sys.modules if name.partition(".")[0] in ("tensorboardX", "wandb")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", True)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] in ("tensorboardX", "wandb")]:
        del sys.modules[module]


def _told(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_tensorboard_in_the_runs_folder(cli: Cli, stand_ins: None) -> None:
    run = cli("test", *SMALL, *TENSORBOARD)
    assert (run.code, run.err) == (0, "")
    assert {path.name for path in run.cwd.iterdir()} == {"runs"}
    (file,) = run.cwd.rglob("events.out.tfevents*")
    assert file.parent == run.folder, "so that tensorboard --logdir runs shows it by its folder's path"
    assert not (run.folder / "hparams.yaml").exists()
    told = _told(file)
    assert ["scalar", "test/top1_after", run.results["top1_after"], 6] in told
    (settings,) = [what for what in told if what[0] == "summary" and isinstance(what[1], list)]
    assert settings[1][0]["model.clip.model"] == "lorattt-demo"
    assert settings[1][1]["end/test/top1_after"] == run.results["top1_after"]
    assert len(table(run.folder)) == 1, "metrics.csv is there as well"


def test_tensorboard_of_a_fit(cli: Cli, stand_ins: None) -> None:
    run = cli(*FIT, "--trainer.max_epochs", "1", *TENSORBOARD, *QUIET)
    assert run.code == 0, run.err
    told = _told(next(run.folder.glob("events*")))
    rows = table(run.folder)
    for key in ("train/loss", "train/lr", "val/top1"):
        ours = [(float(row[key]), int(row["step"])) for row in rows if row[key]]
        assert ours
        assert [(value, step) for kind, name, value, step in (w for w in told if len(w) == 4) if name == key] == ours
    assert [what[0] for what in told].count("summary") == 3


def test_wandb_in_the_runs_folder(cli: Cli, stand_ins: None) -> None:
    run = cli("test", *SMALL, *WANDB, "--trainer.logger.project", "mine", "--trainer.logger.offline", "true")
    assert (run.code, run.err) == (0, "")
    assert os.environ["WANDB_MODE"] == "dryrun", "which is W&B's older word for offline"
    told = _told(next(run.folder.glob("wandb/run-*/told")))
    started = told[0][1]
    assert (started["project"], started["name"]) == ("mine", "zero_shot/demo-noise/000")
    assert started["dir"] == str(run.folder.relative_to(run.cwd))
    configs = [what[1] for what in told if what[0] == "config"]
    assert len(configs) == 1, "the configuration is told once"
    assert configs[0]["model.clip.model"] == "lorattt-demo"
    (logged,) = [what[1] for what in told if what[0] == "log"]
    assert logged["test/top1_after"] == run.results["top1_after"]
    assert logged["trainer/global_step"] == 6


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning sets W&B's mode for the whole process."""
    monkeypatch.setenv("WANDB_MODE", "")


def test_a_run_that_goes_on_goes_on_in_wandb(cli: Cli, stand_ins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object, **__: object) -> None:
        raise UserError("the disk is full")

    args = ["test", *SMALL, *WANDB, "--run.folder", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "close", dies)
        assert cli(*args).code == 2
    assert cli(*args).code == 0
    starts = [_told(file)[0][1]["id"] for file in sorted(Path("run").glob("wandb/run-*/told"))]
    assert starts == [None, "abc123"]


def test_both(cli: Cli, stand_ins: None) -> None:
    run = cli("test", *SMALL, *TENSORBOARD, *WANDB)
    assert run.code == 0, run.err
    assert {"metrics.csv", "wandb", "events.out.tfevents.stand-in"} <= {path.name for path in run.folder.iterdir()}


def test_wandb_that_does_not_start_is_one_line(cli: Cli, stand_ins: None) -> None:
    run = cli("test", *SMALL, *WANDB, "--trainer.logger.entity", "nobody")
    run.refused(
        "W&B does not start (api_key not configured (no-tty)): log in with `wandb login`",
        "--trainer.logger.offline true",
    )


@pytest.mark.parametrize(
    ("args", "name", "extra"),
    [
        (TENSORBOARD, "RunTensorBoard: tensorboard", "tensorboard"),
        (WANDB, "RunWandb: wandb", "wandb"),
        (["--trainer.logger", "WandbLogger"], "WandbLogger: wandb", "wandb"),
    ],
)
def test_what_is_not_installed_is_told_before_anything_is_loaded(
    args: list[str], name: str, extra: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("the model is loaded")

    monkeypatch.setattr("lorattt.methods.base.load_clip", fail)
    monkeypatch.setattr("lorattt.callbacks.loggers._is_installed", lambda package: False)
    run = cli("test", *SMALL, *args)
    assert run.code == 2
    assert run.err == f"lorattt: error: trainer.logger {name} is not installed: pip install {extra}\n"
    assert not list(run.cwd.iterdir())
    text = (CONFIGS.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\n{extra} = [" in text.split("[project.optional-dependencies]")[1].split("\n[")[0]


def test_a_folder_called_wandb_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorattt.callbacks.loggers import _is_installed

    (tmp_path / "a_folder_of_runs").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not _is_installed("a_folder_of_runs")
    assert _is_installed("torch")
