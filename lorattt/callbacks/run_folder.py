"""One folder per run: its configuration, a lock that keeps other runs out, a fit's prompt and checkpoint."""

import errno
import itertools
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import dataset_name, find_callback, method_name, on_first_device
from lorattt.callbacks.journal import PATTERN, journals_in, saving
from lorattt.callbacks.merge import atomic_write
from lorattt.errors import UserError
from lorattt.inputs import at_least

RESULTS_FILE = "results.json"
CONFIG_FILE = "config.yaml"
LOCK_FILE = "run.lock"
PROMPT_FILE = "prompt.safetensors"
TOP_K = 5
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class RunFolder(Callback):
    """Chooses and makes the folder of a run.

    Args:
        root: Folder of all runs; a run gets ``root/<method>/<dataset>/<number>``, the next free number.
        folder: This folder instead. An unfinished run of the same configuration in it is resumed.
        top_k: How many classes ``predictions.jsonl`` gives an image, at most all there are.
        resume: Whether to resume a run in ``folder``; otherwise a folder that holds one is an error.

    Attributes:
        path: The run's folder, once the run has started; the same on all devices.
        resumes: Whether the run resumes another; known on the first device.
    """

    def __init__(self, root: str = "runs", folder: str | None = None, top_k: int = TOP_K, resume: bool = True) -> None:
        at_least(1, run__top_k=top_k)
        self._root, self._folder = root, folder
        self.top_k, self.resume = top_k, resume
        self.resumes = False
        self.path = Path(folder or root)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose and make the folder on the first device, for all."""
        self.resumes = False
        self.path = on_first_device(trainer, lambda: self._choose(trainer, pl_module))
        # Lightning's own folder: until now the one given, or the root, which other runs share.
        if Path(trainer.default_root_dir) == Path(os.path.normpath(self._folder or self._root)):
            trainer._default_root_dir = str(self.path)  # type: ignore[attr-defined]  # there is no other way to set it

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        try:
            if self._folder is None:
                return _next_free(Path(self._root) / method_name(pl_module) / dataset_name(trainer))
            folder = Path(self._folder)
            # Without the writer of config.yaml nobody has compared the configurations.
            compared = find_callback(trainer, ConfigWriter) is not None
            self.resumes = self.resume and compared and (folder / CONFIG_FILE).exists() and bool(journals_in(folder))
            if not self.resumes:
                reject_used(folder)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        except OSError as error:
            hint = "name another run.root or run.folder"
            raise UserError(f"the run's folder cannot be made ({error}): {hint}") from error


def _next_free(parent: Path) -> Path:
    """Make the folder of the next free number."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        with suppress(FileExistsError):  # also where another run takes the number meanwhile
            (parent / f"{number:03d}").mkdir()
            break
    return parent / f"{number:03d}"


def results_in(folder: Path) -> list[Path]:
    """The results of a finished run, of each method; format 1 had those of the only method in the run's folder."""
    return [path for path in (folder / RESULTS_FILE, *sorted(folder.glob(f"*/{RESULTS_FILE}"))) if path.exists()]


def reject_used(folder: Path) -> None:
    """Reject a folder that holds results, or journals of an unfinished run."""
    for found in results_in(folder):
        name = found.relative_to(folder).as_posix()
        raise UserError(f"run.folder {folder} already holds {name}: name another one, or remove it")
    for found in journals_in(folder):
        raise UserError(
            f"run.folder {folder} already holds {found.name} of a run that did not end: go on with it on the command "
            f"line (run.resume true, {CONFIG_FILE} in the folder), name another one, or remove {PATTERN}"
        )


class ConfigWriter(SaveConfigCallback):
    """Writes the whole configuration of a run to ``config.yaml`` in its folder, and drawn images to ``images.tsv``."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called by Lightning on the first device, after the folder was made."""
        folder = find_run(trainer).path
        with saving(folder / CONFIG_FILE, folder), atomic_write(folder / CONFIG_FILE) as file:
            file.write(self.parser.dump(self.config, skip_none=False))
        if keep_images := getattr(getattr(trainer, "datamodule", None), "keep_images", None):
            keep_images(folder / "images.tsv")


def find_run(trainer: Trainer) -> RunFolder:
    """The Trainer's RunFolder; without one, Lightning's root folder, in which no run is resumed."""
    return find_callback(trainer, RunFolder) or RunFolder(folder=trainer.default_root_dir, resume=False)


class FolderLock:
    """Keeps other runs out of a folder until it is released or the process ends, however it ends.

    Loader workers do not inherit the lock, so a run that was killed can be resumed while its workers still exist.
    Where the file system has no locks, nothing is locked.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._lock = FileLock(self._path, blocking=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout:
            owner = ""
            with suppress(OSError):
                owner = self._path.read_text(encoding="utf-8", errors="replace")[:200].strip()
            raise UserError(
                f"run.folder {folder} is in use by another run ({owner or 'just started'}): wait for it, "
                "end it, or name another run.folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._path.unlink(missing_ok=True)
            return
        with suppress(OSError):  # a full disk is reported where it matters
            self._path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")

    def release(self) -> None:
        """Let other runs in; does nothing if it was released before."""
        if self._lock.is_locked:
            with suppress(OSError):  # Windows removes no file that is open
                self._path.unlink(missing_ok=True)
            self._lock.release()


class PromptWriter(Callback):
    """Writes the learned prompt to ``prompt.safetensors`` when training has ended, on the first device."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write, if the module has a prompt, and say where."""
        if trainer.is_global_zero and hasattr(pl_module, "save_prompt"):
            path = find_run(trainer).path / PROMPT_FILE
            pl_module.save_prompt(path)
            top1 = trainer.callback_metrics.get("val/top1")
            known = "" if top1 is None else f"validation top-1 {float(top1):.2f} %, "
            print(f"\n{known}prompt written to {path}")


class RunCheckpoint(ModelCheckpoint):
    """``checkpoints/last.ckpt`` in the run's folder after each epoch, from which ``ckpt_path`` resumes."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder, now that it is known: Lightning calls checkpoints after all other callbacks."""
        if stage == TrainerFn.FITTING:
            self.dirpath = str(find_run(trainer).path / "checkpoints")
        super().setup(trainer, pl_module, stage)
