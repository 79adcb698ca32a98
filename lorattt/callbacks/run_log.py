"""Logs the configuration, the learning rate and the final measures of a run."""

import json
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lorattt.callbacks.base import RunObserver, on_first_device
from lorattt.callbacks.run_csv import FIT, InRunFolder
from lorattt.callbacks.run_folder import find_run_folder, results_in

RATE = "train/lr"
# Keys of results.json that are no measures, or the step.
_NOT_LOGGED = ("format", "seed", "n", "ece_bins")


class RunLog(RunObserver):
    """Points the loggers of a Trainer to the run's folder and logs what methods do not log.

    For a fit, this is the learning rate with each row of losses, and the last row whatever
    ``trainer.log_every_n_steps``. For test, validate and predict, it is the numbers of ``results.json`` at the end, as
    ``test/top1_after`` (with several methods ``test/<method>/top1_after``), at the number of images as the step. Comes
    after ``RunFolder`` and ``ResultsWriter``; writes on the first device.

    Args:
        settings: The configuration, flat, see :func:`flat`.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self._settings = dict(settings or {})
        self._last_row = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the loggers."""
        on_first_device(trainer, lambda: self._place(trainer))

    def _place(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, InRunFolder):
                logger.place(find_run_folder(trainer))
            if self._settings:
                logger.log_hyperparams(self._settings)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the rows that a fit from a checkpoint, or from the start, will write again."""
        self._start_command(trainer, FIT, _step(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the learning rate of this step."""
        if trainer.loggers and trainer.optimizers:
            pl_module.log(RATE, float(trainer.optimizers[0].param_groups[0]["lr"]))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
            epoch = max(0, trainer.current_epoch - 1)
            for logger in trainer.loggers if trainer.is_global_zero else []:
                logger.log_metrics({"epoch": epoch, **losses}, step)
        self._close(trainer, known, step)

    def on_run_end(self, trainer: Trainer, module: Any) -> None:
        """Log the measures of the run."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        command = str(trainer.state.fn.value if trainer.state.fn else "test")
        folder = find_run_folder(trainer)
        values: dict[str, float] = {}
        images = 0
        for path in (files := results_in(folder)):
            row = json.loads(path.read_text(encoding="utf-8"))
            above = f"{command}/{path.parent.name}/" if len(files) > 1 else f"{command}/"
            values |= {above + key: value for key, value in row.items() if key not in _NOT_LOGGED and _is_number(value)}
            images = int(row["n"])
        self._start_command(trainer, command, images)
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), images)
        self._close(trainer, values, images)
        for logger in trainer.loggers:
            logger.save()

    def _start_command(self, trainer: Trainer, command: str, step: int) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, InRunFolder):
                logger.start_command(command, step)

    def _close(self, trainer: Trainer, values: Mapping[str, float], step: int) -> None:
        for logger in trainer.loggers if trainer.is_global_zero and values else []:
            if isinstance(logger, InRunFolder):
                logger.close_run(self._settings, values, step)
            elif isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._settings, dict(values), step)


def _step(trainer: Trainer) -> int:
    """The number under which Lightning logs this training step; not that of optimiser steps."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by the keys of the command line: numbers, texts, true and false; null is left out.

    A class is the value of its key; lists are JSON.
    """
    return dict(_pairs(config, ()))


def _pairs(value: Any, above: tuple[str, ...]) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, each in value.items() for pair in _pairs(each, (*above, str(key)))]
    if value is None:
        return []
    key = ".".join(part for part in above if part not in ("init_args", "class_path"))
    known = isinstance(value, bool | int | float | str)
    return [(key, value if known else json.dumps(value, default=str, ensure_ascii=False))]
