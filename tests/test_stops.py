"""A run that a signal ends says how far it came and how it goes on, leaves nothing elsewhere, and goes on."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from safetensors.torch import load_file

from conftest import CPU, DEMO, ZERO, Cli, Run, only_method
from forked import Forks, environments
from lorattt.callbacks.journal import journal_path
from lorattt.callbacks.stops import _CHILDREN_SECONDS, RunStops, resume_hint
from lorattt.errors import UserError
from lorattt.methods.coop import CoOp
from lorattt.methods.zero_shot import ZeroShot
from lorattt.stopping import STOPS, Stopped, ended_by_signals

if sys.platform == "win32":
    pytest.skip("Windows has no SIGHUP and SIGUSR1", allow_module_level=True)

QUIET = ["--trainer.enable_progress_bar", "false"]
EVAL = [*ZERO, *DEMO, "--data.images", "12", "--data.batch_size", "2", *QUIET]
FIT = ["fit", "--model", "CoOp", "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo", *CPU, *QUIET]
FIT += ["--data", "DemoSourceData", "--data.shots", "1", "--data.val_shots", "1", "--data.limit", "12"]
FIT += ["--data.batch_size", "6", "--data.workers", "0", "--trainer.max_epochs", "3"]  # two steps an epoch
SLURM = dict.fromkeys(("NTASKS", "JOB_ID", "NNODES", "NTASKS_PER_NODE"), "1")
SLURM |= {"JOB_NAME": "job", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NODELIST": "localhost", "STEP_ID": "0"}


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """A shell's background job is started with Ctrl-C ignored, under nohup SIGHUP too; the program leaves them so."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], Any]]:
    """``at_step(n, signal)`` makes the n-th batch or training step of the next run begin with that signal."""
    with monkeypatch.context() as patch:

        def arrange(step: int, number: int) -> pytest.MonkeyPatch:
            left = [step]

            def counted(right: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any) -> Any:
                    left[0] -= 1
                    if left[0] == 0:
                        send(number)
                    return right(*args)

                return call

            patch.setattr(ZeroShot, "classify", counted(ZeroShot.classify))
            patch.setattr(CoOp, "source_loss", counted(CoOp.source_loss))
            return patch

        yield arrange


def last_line(run: Run) -> str:
    """Of a run whose screen has one line about its end, and no traceback."""
    assert "Traceback" not in run.err
    assert "shared memory" not in run.err
    lines = [line for line in run.err.splitlines() if not line.startswith("lorattt: warning: ")]
    assert len(lines) == 1, run.err
    return lines[0]


def goes_on(run: Run, cli: Cli) -> Run:
    """Give the command that the line names."""
    words = shlex.split(last_line(run).split("to go on: ")[1])
    assert words[0] == "lorattt"
    return cli(*words[1:])


# Test, validate, predict


@pytest.mark.parametrize(
    ("command", "number", "code", "said", "done"),
    [
        ("test", "SIGINT", 130, "Ctrl-C", 4),
        ("predict", "SIGTERM", 143, "SIGTERM", 4),
        ("validate", "SIGHUP", 129, "SIGHUP", 4),
        ("test", "SIGUSR1", 128 + signal.SIGUSR1, "SIGUSR1", 6),  # a warning: the batch is brought to its end
    ],
)
def test_a_run_that_is_stopped_goes_on(
    command: str, number: str, code: int, said: str, done: int, cli: Cli, at_step: Any
) -> None:
    whole = cli(command, *EVAL, "--run.folder", "whole")
    patch = at_step(3, getattr(signal, number))
    run = cli(command, *EVAL, "--run.root", "my runs")
    patch.undo()
    assert run.code == code
    assert last_line(run).startswith(
        f"lorattt: stopped by {said}: {done} of 12 images are done and kept; to go on: lorattt {command} -c "
    )
    again = goes_on(run, cli)
    assert (whole.code, again.code, again.err) == (0, 0, "")
    assert f"{done} images are done" in again.out
    (folder,) = again.cwd.glob("my runs/*/*/000")
    whole_folder = only_method(again.cwd / "whole")
    assert (only_method(folder) / "predictions.csv").read_bytes() == (whole_folder / "predictions.csv").read_bytes()
    assert {path.name for path in again.cwd.iterdir()} == {"my runs", "whole"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as before the command


@pytest.mark.parametrize("resumable", [True, False])
def test_a_mistake_to_fix_first_names_no_command(resumable: bool, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        error = UserError("it cannot go on")
        error.resumable = resumable
        raise error

    monkeypatch.setattr(ZeroShot, "classify", fail)
    run = cli("test", *EVAL)
    assert run.code == 2
    assert last_line(run).startswith("lorattt: error: it cannot go on")
    assert ("; 0 of 12 images are done and kept; to go on: lorattt test -c " in last_line(run)) == resumable


def test_one_that_may_not_resume_is_told_to(cli: Cli, at_step: Any) -> None:
    patch = at_step(2, signal.SIGINT)
    run = cli("test", *EVAL, "--run.folder", "here", "--run.resume", "false")
    patch.undo()
    assert "--run.folder here --run.resume true" in last_line(run)
    assert goes_on(run, cli).code == 0


def test_a_warning_at_the_last_batch_lets_the_run_end(cli: Cli, at_step: Any) -> None:
    at_step(6, signal.SIGUSR1)
    run = cli("test", *EVAL)
    assert run.code == 0
    assert run.results["n"] == 12


def test_one_that_is_stopped_when_all_is_written_is_finished(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes after the journals were removed."""
    monkeypatch.setattr(RunStops, "teardown", lambda *_, **__: send(signal.SIGTERM))
    run = cli("test", *EVAL, "--run.folder", "here")
    assert run.code == 143
    assert last_line(run) == "lorattt: stopped by SIGTERM: the run is finished, its results are in here"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_stopped_before_anything_was_done(number: int, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorattt.cli.check_values", lambda config: send(number))
    run = cli("test", *EVAL)
    assert run.code == 128 + number
    assert last_line(run).startswith("lorattt: stopped by ")
    assert not list(run.cwd.iterdir())


# Fit


@pytest.mark.parametrize(
    ("number", "step", "done"),
    [("SIGINT", 5, 2), ("SIGUSR1", 1, 1)],
)
def test_a_fit_that_is_stopped_goes_on(number: str, step: int, done: int, cli: Cli, at_step: Any) -> None:
    """A warning waits for the end of the epoch, and its checkpoint."""
    whole = cli(*FIT, "--run.folder", "whole")
    patch = at_step(step, getattr(signal, number))
    run = cli(*FIT)
    patch.undo()
    assert run.code == 128 + getattr(signal, number)
    assert f"{done} of 3 epochs are done and kept; to go on: lorattt fit -c " in last_line(run)
    assert not list(run.cwd.glob("runs/**/prompt.safetensors"))
    again = goes_on(run, cli)
    assert (whole.code, again.code) == (0, 0), again.err
    (folder,) = again.cwd.glob("runs/*/*/000")
    assert (folder / "metrics.csv").read_bytes() == Path("whole", "metrics.csv").read_bytes()
    prompts = [load_file(place / "prompt.safetensors")["context"] for place in (folder, Path("whole"))]
    assert torch.equal(*prompts)


def test_a_fit_that_is_stopped_in_its_first_epoch(cli: Cli, at_step: Any) -> None:
    at_step(1, signal.SIGTERM)
    run = cli(*FIT)
    assert run.code == 143
    assert last_line(run) == "lorattt: stopped by SIGTERM: no epoch is finished, and nothing is kept"


# SLURM


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job of one task; the folder has what its ``scontrol`` was asked for, if anything."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (programs / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path / "asked"


@pytest.mark.parametrize("args", [["test", *EVAL], FIT], ids=["test", "fit"])
def test_the_warning_of_slurm_leaves_no_checkpoint_of_lightning(
    args: list[str], slurm: Path, cli: Cli, at_step: Any
) -> None:
    at_step(1, signal.SIGUSR1)
    run = cli(*args)
    assert run.code == 128 + signal.SIGUSR1
    assert not list(run.cwd.rglob("hpc_ckpt*"))
    assert {path.name for path in run.cwd.iterdir()} == {"runs"}
    assert not slurm.exists()


@pytest.mark.parametrize("folder", [[], ["--run.folder", "runs/mine"]])
def test_a_fit_never_takes_up_what_another_left(folder: list[str], slurm: Path, cli: Cli) -> None:
    """Lightning would read this file, which is no checkpoint, and fail."""
    for place in ("hpc_ckpt_1.ckpt", "hpc_ckpt_2.ckpt"):
        Path(place).write_bytes(b"of another run")
    run = cli(*FIT, "--trainer.max_epochs", "1", *folder)
    assert run.code == 0, run.err


@pytest.mark.parametrize(
    "args", [[], ["--run.folder", "there/below"], ["--run.root", "./all/"], ["--trainer.default_root_dir", "own"]]
)
def test_the_root_of_lightning_is_the_runs_folder(args: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user names another."""
    found = []
    monkeypatch.setattr(RunStops, "on_run_start", lambda self, trainer, module: found.append(trainer.default_root_dir))
    run = cli("test", *EVAL, *args)
    assert run.code == 0, run.err
    assert found == ["own" if "own" in args else str(run.folder.relative_to(run.cwd))]


@pytest.mark.parametrize("args", [["predict", *EVAL], FIT, [*FIT, "--trainer.num_sanity_val_steps", "0"]])
def test_lightning_does_not_handle_our_signals(args: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler of SIGTERM waits for the other devices, which may not have got the signal."""
    found = []

    def looked(right: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            found.append([signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)])
            return right(*args)

        return call

    monkeypatch.setattr(ZeroShot, "classify", looked(ZeroShot.classify))
    monkeypatch.setattr(CoOp, "source_loss", looked(CoOp.source_loss))
    assert cli(*args).code == 0
    assert found
    assert all(each == [STOPS._handle] * 2 for each in found)


# Processes of their own


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    started = Forks(tmp_path_factory.mktemp("forks"))
    yield started
    started.close()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


_START = "from lorattt.__main__ import main\nopen('pid', 'w').write(str(os.getpid()))\n{more}\nmain({args})"
_START = "import os, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + _START
_SLOW = """
from lorattt.methods.zero_shot import ZeroShot
right = ZeroShot.classify
def slow(*args):
    time.sleep(0.3)
    return right(*args)
ZeroShot.classify = slow
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_of_a_run_with_workers(number: int, code: int, forks: Forks, tmp_path: Path) -> None:
    """As a terminal sends Ctrl-C, and schedulers SIGTERM: the loader's workers have it too."""
    folder = tmp_path / "run"
    args = ["test", *EVAL, "--data.images", "60", "--data.workers", "2", "--run.folder", str(folder)]
    group = []

    def stop() -> bool:
        wait_for(lambda: journal_path(folder, 0).exists() and journal_path(folder, 0).stat().st_size > 0)
        group.append(int((tmp_path / "pid").read_text()))
        os.killpg(group[0], number)
        return False

    ended = forks.run(None, tmp_path, before=_START.format(more=_SLOW, args=args), kill_when=stop)
    assert ended.codes == [code], ended.err
    (line,) = ended.err[0].splitlines()
    assert " of 60 images are done and kept; to go on: lorattt test -c " in line

    def all_gone() -> bool:
        try:
            os.killpg(group[0], 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(all_gone)


def test_a_signal_to_one_of_two_devices(forks: Forks, tmp_path: Path) -> None:
    """It ends at once, whatever the other is doing, which finds out at the end."""
    folder = tmp_path / "run"
    args = ["test", *EVAL, "--data.images", "16", "--run.folder", str(folder), "--trainer.devices", "2"]
    name = "open(f'pid{os.environ[\"LOCAL_RANK\"]}', 'w').write(str(os.getpid()))\n"

    def stop() -> bool:
        wait_for(lambda: all(journal_path(folder, rank).exists() for rank in range(2)))
        os.kill(int((tmp_path / "pid1").read_text()), signal.SIGTERM)
        return False

    start = _START.format(more=name + _SLOW, args=[*args, "--trainer.strategy", "ddp"])
    ended = forks.run(None, tmp_path, before=start, envs=environments(2), kill_when=stop)
    assert ended.codes == [2, 143], ended.err
    assert ended.err[0].startswith("lorattt: error: another device's process has ended the run")
    assert ended.err[1] == ""


_STUCK = """
from lorattt.callbacks.stops import RunStops
RunStops.on_run_start = lambda *_: os.kill(os.getpid(), signal.SIGINT)
def stuck(*_):
    open('stuck', 'w').close()
    time.sleep(1000)
RunStops.on_exception = stuck
"""


def test_a_second_ctrl_c_waits_for_nothing(forks: Forks, tmp_path: Path) -> None:
    def again() -> bool:
        wait_for((tmp_path / "stuck").exists)
        time.sleep(1.2)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
        return False

    ended = forks.run(None, tmp_path, before=_START.format(more=_STUCK, args=["test", *EVAL]), kill_when=again)
    assert ended.codes == [130]
    assert ended.err == ["lorattt: stopped at once\n"]


# The signals themselves


def test_one_ctrl_c_that_comes_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("lorattt.stopping.os._exit", ended.append)
    with STOPS.heard():
        with pytest.raises(Stopped, match="^stopped by Ctrl-C$"):
            send(signal.SIGINT)
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert ended == []
        STOPS._at -= 2
        send(signal.SIGTERM)
        assert ended == [143]


def test_a_stop_that_was_lost_is_found_again() -> None:
    class Finalised:
        def __del__(self) -> None:
            with contextlib.suppress(Stopped):  # as Python does with whatever leaves a finaliser
                send(signal.SIGTERM)

    with STOPS.heard():
        STOPS.check(warning=True)
        Finalised()
        with pytest.raises(Stopped, match="SIGTERM"):
            STOPS.check(warning=False)
    with STOPS.heard():
        STOPS.check(warning=True)  # forgotten with that command


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 7), ("SIGUSR1", 7), ("SIGTERM", -signal.SIGTERM)])
def test_a_forked_process_says_nothing(number: str, status: int) -> None:
    with STOPS.heard():
        child = os.fork()
        if child == 0:
            try:
                send(getattr(signal, number))
                os._exit(7)
            finally:
                os._exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status


def trainer_of(started: list["subprocess.Popen[bytes]"], folder: Path) -> Any:
    """What is asked of a Trainer that has started these processes for other devices."""
    return SimpleNamespace(
        strategy=SimpleNamespace(launcher=SimpleNamespace(procs=started)),
        is_global_zero=False,
        callbacks=[],
        default_root_dir=str(folder),
    )


def test_the_processes_of_other_devices_are_ended_too(tmp_path: Path) -> None:
    """Those that Lightning started, which it would take for failed and kill this process for."""
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
    started = list(children)
    begun = time.monotonic()
    RunStops().on_exception(trainer_of(started, tmp_path), None, Stopped(signal.SIGTERM))  # type: ignore[arg-type]
    assert [child.returncode for child in children] == [-signal.SIGTERM] * 2
    assert started == []
    assert time.monotonic() - begun < _CHILDREN_SECONDS


def test_a_process_that_failed_does_not_kill_this_one_while_it_says_why(tmp_path: Path) -> None:
    """Lightning's observer sees a failed process only among those of the launcher."""
    failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    failed.wait()
    started = [failed]
    killed: list[None] = []
    observer = _ChildProcessObserver(os.getpid(), started)
    observer._terminate_all = lambda: killed.append(None)  # type: ignore[method-assign]
    trainer, exception = trainer_of(started, tmp_path), RuntimeError("the connection was closed")
    RunStops().on_exception(trainer, None, exception)  # type: ignore[arg-type]
    assert observer._run(), "it has nothing left to look at"
    assert killed == []


def test_several_processes_are_told_to_go_on_as_they_began(cli: Cli, at_step: Any, monkeypatch: Any) -> None:
    """srun or torchrun started them, and must again."""
    found = []

    def told(self: RunStops, trainer: Any, module: Any, exception: BaseException) -> None:
        strategy = SimpleNamespace(cluster_environment=SimpleNamespace())
        names = ("callbacks", "datamodule", "state", "default_root_dir")
        several = SimpleNamespace(**{name: getattr(trainer, name) for name in names}, strategy=strategy, world_size=4)
        found.append(resume_hint(several))  # type: ignore[arg-type]

    monkeypatch.setattr(RunStops, "on_exception", told)
    at_step(3, signal.SIGINT)
    assert cli("test", *EVAL, "--run.folder", "a b").code == 130
    assert found == ["4 of 12 images are done and kept; to go on, give the same command with --run.folder 'a b'"]
