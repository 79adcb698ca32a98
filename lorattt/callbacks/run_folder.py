"""One folder per run, with the configuration that made it."""

import re
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lorattt.errors import UserError

RESULTS_FILE = "results.json"
TOP_K = 5


class RunFolder(Callback):
    """Chooses and makes the folder of a run.

    Args:
        root: Folder of all runs; a run gets ``root/<method>/<dataset>/<number>``, the next free number.
        folder: This very folder instead.
        top_k: How many classes ``predictions.jsonl`` gives an image, at most all there are.

    Attributes:
        path: The run's folder, once the run has started; the same on all devices.
        top_k: As given.

    Raises:
        UserError: If ``top_k`` is below 1.
    """

    def __init__(self, root: str = "runs", folder: str | None = None, top_k: int = TOP_K) -> None:
        if top_k < 1:
            raise UserError(f"run.top_k {top_k}: must be at least 1")
        self._root, self._folder = root, folder
        self.top_k = top_k
        self.path = Path(folder or root)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose on one device, tell the others, make the folder.

        Raises:
            UserError: If the folder that was asked for already holds results, or cannot be made.
        """
        chosen, problem = "", ""
        if trainer.is_global_zero:
            try:
                chosen = self._choose(trainer, pl_module)
            except UserError as error:
                problem = str(error)
            except OSError as error:
                problem = f"the run's folder cannot be made ({error}): name another run.root or run.folder"
        # Every device learns of a refusal, so that none waits for the one that stopped.
        chosen, problem = trainer.strategy.broadcast((chosen, problem))
        if problem:
            raise UserError(problem)
        self.path = Path(chosen)

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> str:
        if self._folder is not None:
            folder = Path(self._folder)
            # A run of several methods has the results of each in a folder of its own.
            for found in (folder / RESULTS_FILE, *sorted(folder.glob(f"*/{RESULTS_FILE}"))):
                if found.exists():
                    held = found.relative_to(folder).as_posix()
                    raise UserError(f"run.folder {folder} already holds {held}: name another one, or remove it")
            folder.mkdir(parents=True, exist_ok=True)
            return str(folder)
        parent = Path(self._root) / run_name(pl_module, "name") / run_name(_datamodule(trainer), "name")
        parent.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            folder = parent / f"{number:03d}"
            try:
                folder.mkdir()  # fails if another run took the number meanwhile
            except FileExistsError:
                number += 1
                continue
            return str(folder)


class ConfigWriter(SaveConfigCallback):
    """Writes the whole configuration of a run to ``config.yaml`` in its folder, and drawn images to ``images.tsv``."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called by Lightning on the first device, after the folder was made."""
        folder = find_run_folder(trainer)
        self.parser.save(self.config, folder / "config.yaml", skip_none=False, overwrite=True, multifile=False)
        if keep_images := getattr(_datamodule(trainer), "keep_images", None):
            keep_images(folder / "images.tsv")


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def run_name(thing: Any, attribute: str) -> str:
    """A short name of a method or a dataset that is safe as a folder's name."""
    name = getattr(thing, attribute, None)
    if not isinstance(name, str):
        name = type(thing).__name__ if thing is not None else "data"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "run"


def find_run_folder(trainer: Trainer) -> Path:
    """The folder of the run, for other callbacks; Lightning's root folder where there is no RunFolder."""
    found = _find(trainer)
    return found.path if found else Path(trainer.default_root_dir)


def find_top_k(trainer: Trainer) -> int:
    """How many classes are listed for an image; the default where there is no RunFolder."""
    found = _find(trainer)
    return found.top_k if found else TOP_K


def _find(trainer: Trainer) -> RunFolder | None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, RunFolder)), None)
