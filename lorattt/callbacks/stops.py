"""Stops a run on a signal (on a warning, between two batches) and reports the command that resumes it."""

import contextlib
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.journal import journals_in, read_journals
from lorattt.callbacks.run_folder import CONFIG_FILE, find_run, results_in
from lorattt.errors import UserError
from lorattt.stopping import STOPS, Stopped

_CHILDREN_SECONDS = 20.0


class RunStops(RunObserver):
    """Stops a run that was warned, between two batches or two epochs of a fit; comes last in a Trainer's callbacks."""

    def on_run_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on a warning waits for the end of a batch, or of an epoch of a fit."""
        # Lightning has just set its own handlers, which wait for other devices and write checkpoints.
        STOPS.listen()
        STOPS.patient = True

    on_sanity_check_start = on_train_start = on_run_start  # the first hooks of a fit with and without such a check

    def on_batch_start(self, trainer: Trainer) -> None:
        """Stop here if warned: the batch before is in the journal."""
        STOPS.check(warning=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Let a warning wait for the end of the epoch."""
        STOPS.check(warning=False)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if warned: the epoch before has its checkpoint."""
        # All devices stop at the same epoch, whenever each of them was warned.
        STOPS.warned = trainer.strategy.reduce_boolean_decision(STOPS.warned, all=False)
        STOPS.check(warning=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let a warning stop the program at once again: the run has ended."""
        STOPS.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note how to resume the run, and end the processes that this one started for other devices."""
        STOPS.patient = False
        launcher: Any = trainer.strategy.launcher
        children = [child for child in getattr(launcher, "procs", ()) if isinstance(child, subprocess.Popen)]
        if children:
            launcher.procs.clear()  # Lightning would kill this process when it sees that one of them has failed
        if stopped := exception.number if isinstance(exception, Stopped) else STOPS.asked:
            _end_children(launcher, children, stopped)
        fix_first = isinstance(exception, UserError) and not exception.resumable and not stopped
        if trainer.is_global_zero and not fix_first:
            with contextlib.suppress(OSError):  # the folder may be what is gone
                STOPS.notice = resume_hint(trainer)


def resume_hint(trainer: Trainer) -> str:
    """How far a run is and the command that resumes it; empty without a configuration in the folder."""
    run = find_run(trainer)
    folder = run.path
    if not (folder / CONFIG_FILE).exists():
        return ""
    command = TrainerFn(trainer.state.fn)
    words = ["lorattt", command.value, "-c", str(folder / CONFIG_FILE), "--run.folder", str(folder)]
    if command == TrainerFn.FITTING:
        checkpoint = _checkpoint(trainer)
        if checkpoint is None:
            return "no epoch is finished, and nothing is kept"
        done = f"{trainer.current_epoch} of {trainer.max_epochs} epochs are done and kept"
        more = ["--ckpt_path", str(checkpoint)]
    else:
        if results_in(folder) and not journals_in(folder):
            return f"the run is finished, its results are in {folder}"
        known = getattr(getattr(trainer, "datamodule", None), "indices", None)
        of_all = "" if known is None else f" of {len(known)}"
        done = f"{len(read_journals(folder).done)}{of_all} images are done and kept"
        more = [] if run.resume else ["--run.resume", "true"]
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and not isinstance(environment, LightningEnvironment):
        return f"{done}; to go on, give the same command with {shlex.join([*words[4:], *more])}"
    return f"{done}; to go on: {shlex.join([*words, *more])}"


def _checkpoint(trainer: Trainer) -> Path | None:
    """The last complete checkpoint of a fit."""
    names = ("last_model_path", "best_model_path")
    paths = [getattr(callback, name, "") for callback in trainer.checkpoint_callbacks for name in names]
    return next((Path(path) for path in paths if path and zipfile.is_zipfile(path)), None)


def _end_children(launcher: Any, children: list["subprocess.Popen[bytes]"], number: int) -> None:
    """Send a signal to the processes that Lightning started for other devices, and wait for their end."""
    if not children and getattr(launcher, "procs", None):  # spawned or forked: they end with this one
        launcher.kill(number)
    for child in children:
        child.send_signal(number)
    for child in children:
        try:
            child.wait(_CHILDREN_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
