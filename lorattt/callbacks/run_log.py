"""Logs the configuration, the learning rate and the final measures of a run."""

import json
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lorattt.callbacks.base import RunObserver, methods_of, on_first_device
from lorattt.callbacks.run_csv import FIT, RunCSV
from lorattt.callbacks.run_folder import RESULTS_FILE, find_run
from lorattt.settings import dotted

RATE = "train/lr"
# Keys of results.json that are no measures, or the step.
_NOT_LOGGED = ("format", "seed", "n", "ece_bins")


class RunLog(RunObserver):
    """Points the loggers of a Trainer to the run's folder and logs what methods do not log.

    For a fit, this is the learning rate with each row of losses, and the last row whatever
    ``trainer.log_every_n_steps``. For test, validate and predict, it is the numbers of ``results.json`` at the end, as
    ``test/top1_after`` (with several methods ``test/<method>/top1_after``), at the number of images as the step. Comes
    after ``RunFolder`` and ``ResultsWriter``; writes on the first device. ``settings`` is the configuration as
    :func:`flat` gives it.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self._settings = dict(settings or {})
        self._loggers: list[Any] = []  # of the first device
        self._last_row = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the loggers."""
        self._loggers = list(trainer.loggers) if trainer.is_global_zero else []

        def place() -> None:
            for logger in self._loggers:
                if hasattr(logger, "place"):
                    logger.place(find_run(trainer).path)
                if self._settings:
                    logger.log_hyperparams(self._settings)

        on_first_device(trainer, place)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the rows that a fit from a checkpoint, or from the start, will write again."""
        self._start_command(FIT, _step(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the learning rate of this step."""
        if trainer.loggers and trainer.optimizers:
            pl_module.log(RATE, float(trainer.optimizers[0].param_groups[0]["lr"]))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note which step is logged."""
        step = _step(trainer)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if every and ((step + 1) % every == 0 or trainer.should_stop):
            self._last_row = step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last step and the final values."""
        step = max(0, _step(trainer) - 1)  # Lightning counts the next step already
        known = {name: float(value) for name, value in trainer.callback_metrics.items()}
        losses = {name: value for name, value in known.items() if name.startswith("train/")}
        if losses and self._last_row != step:
            for logger in self._loggers:
                logger.log_metrics({"epoch": max(0, trainer.current_epoch - 1), **losses}, step)
        self._log_final(known, step)

    def on_run_end(self, trainer: Trainer, module: Any) -> None:
        """Log the measures of the run."""
        if not self._loggers:
            return
        command = str(trainer.state.fn.value if trainer.state.fn else "test")
        files = {name: find_run(trainer).path / name / RESULTS_FILE for name in methods_of(module)}
        rows = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.exists()}
        images = max((int(row["n"]) for row in rows.values()), default=0)
        values: dict[str, float] = {}
        for name, row in rows.items():
            above = f"{command}/{name}/" if len(rows) > 1 else f"{command}/"
            logged = {key: value for key, value in row.items() if key not in _NOT_LOGGED}
            values |= {above + key: value for key, value in logged.items() if type(value) in (int, float)}
        self._start_command(command, images)
        for logger in self._loggers:
            logger.log_metrics(dict(values), images)
        self._log_final(values, images)
        for logger in self._loggers:
            logger.save()

    def _start_command(self, command: str, step: int) -> None:
        for logger in self._loggers:
            if isinstance(logger, RunCSV):
                logger.start_command(command, step)

    def _log_final(self, values: Mapping[str, float], step: int) -> None:
        """For TensorBoard's table of settings and final values."""
        for logger in self._loggers if values else []:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._settings, dict(values), step)


def _step(trainer: Trainer) -> int:
    """The number under which Lightning logs this training step; not that of optimiser steps."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by the keys of the command line; null is left out, a class is the value of its key.

    Values that are no numbers, texts, true or false are JSON.
    """
    return {
        as_typed(key): value if isinstance(value, bool | int | float | str) else in_json(value)
        for key, value in dotted(config).items()
        if value is not None and value != {}
    }


def in_json(value: Any) -> str:
    """A value of a configuration as JSON, on one line."""
    return json.dumps(value, default=str, ensure_ascii=False)


def as_typed(key: str) -> str:
    """A key of a configuration as it is given on the command line."""
    return ".".join(part for part in key.split(".") if part not in ("init_args", "class_path"))
