"""TensorBoard and Weights & Biases in the run's own folder."""

import importlib.util
import re
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lorattt.errors import UserError, one_line

# Logger classes with the packages of which one must be installed.
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("RunTensorBoard", "TensorBoardLogger"), ("tensorboard", "tensorboardX")),
    **dict.fromkeys(("RunWandb", "WandbLogger"), ("wandb",)),
}
_WANDB_RUN: Final = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-(.+)")


def check_installed(logger: str) -> None:
    """Require that the package of a logger, a class's name or import path, is installed; unknown classes pass."""
    name = logger.rpartition(".")[2]
    packages = _NEEDS.get(name)
    if packages is not None and not any(map(_is_installed, packages)):
        raise UserError(f"trainer.logger {name}: {packages[0]} is not installed: pip install {packages[0]}")


def _is_installed(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None  # a mere folder has none: W&B leaves some called wandb


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard's files in the run's folder: ``tensorboard --logdir runs`` shows each run by its folder's path."""

    def __init__(self) -> None:
        check_installed("RunTensorBoard")
        super().__init__(save_dir="", name="", version="", default_hp_metric=False)

    @property
    def log_dir(self) -> str:
        """The run's folder; empty before it is known."""
        return str(self._root_dir)

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer; None before the folder is known."""
        return super().experiment if self.log_dir else None

    def place(self, folder: Path) -> None:
        """Write into this folder."""
        if self.log_dir and self.log_dir != str(folder):  # of another run of the same Trainer
            self.finalize("success")
            self._experiment = None
        self._root_dir = str(folder)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Write a row of the table of hyperparameters: the settings and the final values, once these are known."""
        if metrics:
            super().log_hyperparams(params, {f"end/{key}": value for key, value in metrics.items()}, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush to the disk, without the hyperparameters that Lightning would write to a file."""
        if self.experiment is not None:
            self.experiment.flush()


class RunWandb(WandbLogger):
    """Weights & Biases, with its local files in the run's folder. A resumed run is resumed in W&B too.

    Args:
        project: W&B's project.
        entity: The project's owner; default: the account's.
        name: The run's name in W&B; default: the path of its folder.
        group: W&B's group of runs.
        tags: W&B's tags.
        offline: Send nothing: ``wandb sync`` sends the folder later. The environment's ``WANDB_MODE=offline`` does
            the same.
    """

    def __init__(
        self,
        project: str = "lorattt",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        offline: bool = False,
    ) -> None:
        check_installed("RunWandb")
        self._folder: Path | None = None
        self._given_name = name
        more = {"entity": entity, "group": group, "tags": tags}
        given: dict[str, Any] = {key: value for key, value in more.items() if value is not None}
        super().__init__(project=project, name=name, offline=offline, **given)

    @property
    def experiment(self) -> Any:
        """W&B's run; None before the folder is known."""
        if self._folder is None:
            return None
        try:
            return super().experiment
        except Exception as error:  # not logged in, no network, a folder that cannot be written
            reason = one_line(error) or type(error).__name__
            raise UserError(
                f"trainer.logger RunWandb: W&B does not start ({reason}): log in with `wandb login`, or send nothing "
                "with --trainer.logger.offline true"
            ) from error

    def place(self, folder: Path) -> None:
        """Start W&B's run, or resume the last one of this folder."""
        if self._experiment is not None and self._folder != folder:  # of another run of the same Trainer
            self._experiment.finish()
            self._experiment = None
        self._folder = folder
        self._save_dir = str(folder)
        self._name = self._given_name or "/".join(folder.parts[-3:])
        self._id = _last_wandb_run(folder)
        self._wandb_init.update(dir=self._save_dir, name=self._name, id=self._id)
        _ = self.experiment


def _last_wandb_run(folder: Path) -> str | None:
    """W&B's id of the run that an earlier attempt left in this folder; None without one."""
    found = [_WANDB_RUN.fullmatch(path.name) for path in folder.glob("wandb/*run-*")]
    known = sorted((match[1], match[2]) for match in found if match)
    return known[-1][1] if known else None
