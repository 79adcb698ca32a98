"""How far a run is: accuracy before and after so far, images a second, time left, as a bar or as lines in a log."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.pace import RunProgress, in_lines
from lorattt.show import clock

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def progress(callbacks: Any) -> list[Callback]:
    """What shows the progress of a run beside the callbacks it has.

    Args:
        callbacks: The user's own: one, a list, or none. Their bar takes the place of ours.
    """
    own = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
    bars = [each for each in own if isinstance(each, ProgressBar)]
    if not bars:
        return [AccuracyBar()]
    return [RichNotes(bars[0])] if isinstance(bars[0], RichProgressBar) else []


class AccuracyBar(TQDMProgressBar):
    """Lightning's bar, with top-1 before and after adaptation so far, images a second and the time left.

    All are of the first device's share, which is said where there are others. Of several methods, it is the last one's
    accuracy. Where the run goes on with another that did not end, bar and accuracy begin with what that one did, the
    speed does not. Where the screen is no terminal, a line every 30 s takes the place of the bar; those of
    a fit have its losses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._run = RunProgress()
        self._lines = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start counting."""
        super().setup(trainer, pl_module, stage)
        self._run = RunProgress()
        if self._lines:  # of a run that ended early
            self.enable()
        self._lines = in_lines() and self.is_enabled
        if self._lines:
            self.disable()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The next run may have a terminal."""
        if self._lines:
            self.enable()
            self._lines = False

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """What a fit shows: its losses, and not a logger's number."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def _begin(self, trainer: Trainer, bar: Any, to_do: float, loader: Any) -> None:
        """Begin a bar that was just reset with the batches of earlier attempts."""
        self._run.begin(trainer, to_do, loader, lines=self._lines)
        bar.bar_format = _BAR
        if done := self._run.done:
            if bar.total is not None:
                bar.total += done
            bar.n = bar.initial = done
        bar.refresh()

    def _count(self, bar: Any, outputs: Any) -> None:
        self._run.pace.count(outputs)
        if not self.is_disabled:
            bar.set_postfix_str(self._run.pace.text, refresh=False)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with what is done."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if batch_idx == 0:
            to_do = self.total_test_batches_current_dataloader
            self._begin(trainer, self.test_progress_bar, to_do, trainer.test_dataloaders)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with what is done, unless it belongs to a training."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if batch_idx == 0 and trainer.state.fn == TrainerFn.VALIDATING:
            to_do = self.total_val_batches_current_dataloader
            self._begin(trainer, self.val_progress_bar, to_do, trainer.val_dataloaders)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with what is done."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if batch_idx == 0:
            to_do = self.total_predict_batches_current_dataloader
            self._begin(trainer, self.predict_progress_bar, to_do, trainer.predict_dataloaders)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Count a batch and show."""
        self._count(self.test_progress_bar, outputs)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx + self._run.done, *rest)
        self._tell(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Count a batch and show, unless it belongs to a training."""
        alone = trainer.state.fn == TrainerFn.VALIDATING
        if alone:
            self._count(self.val_progress_bar, outputs)
        done = self._run.done if alone else 0
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx + done, *rest)
        if alone:
            self._tell(trainer)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Count a batch and show."""
        self._count(self.predict_progress_bar, outputs)
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx + self._run.done, *rest)
        self._tell(trainer)

    def on_train_start(self, trainer: Trainer, *rest: Any) -> None:
        """Begin."""
        super().on_train_start(trainer, *rest)
        left = (trainer.max_epochs or 0) - trainer.current_epoch
        self._run.pace.begin(left * self.total_train_batches if left > 0 else None)
        if self._lines:
            self._run.lines.tell(f"fitting: epoch {trainer.current_epoch}, {self.total_train_batches} batches each")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the losses."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._run.pace.batches += 1
        if self._lines and self._run.lines.due:
            values = self.get_metrics(trainer, pl_module).items()
            shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values]
            left = self._run.pace.left
            shown += [] if left is None else [f"{clock(left)} left"]
            place = f"epoch {trainer.current_epoch}, {batch_idx + 1}/{self.total_train_batches} batches"
            self._run.lines.tell(f"fitting: {place}: {', '.join(shown)}")

    def _tell(self, trainer: Trainer) -> None:
        if self._lines:
            self._run.tell(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line, so that the message does not run into the bar."""
        bars = (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar)
        for bar in bars:
            if bar is not None:
                bar.close()


class RichNotes(RunObserver):
    """Puts what :class:`AccuracyBar` shows before Lightning's rich bar, or in lines where there is no terminal.

    Args:
        bar: The Trainer's bar; stands before this in its callbacks.
    """

    def __init__(self, bar: RichProgressBar) -> None:
        self._bar = bar
        self._run = RunProgress()
        self._trainer: Trainer | None = None
        self._begun = False

    def started(self, trainer: Trainer, module: Any) -> None:
        """Note whose run it is."""
        self._trainer, self._begun = trainer, False

    def begins(self, trainer: Trainer) -> None:
        """Begin with what is done."""
        if self._begun or not trainer.is_global_zero:
            return
        self._begun = True
        to_do, loader = {
            TrainerFn.TESTING: (trainer.num_test_batches, trainer.test_dataloaders),
            TrainerFn.VALIDATING: (trainer.num_val_batches, trainer.val_dataloaders),
            TrainerFn.PREDICTING: (trainer.num_predict_batches, trainer.predict_dataloaders),
        }[TrainerFn(trainer.state.fn)]
        self._run.begin(trainer, sum(to_do), loader, lines=in_lines())

    def took(self, outputs: Any) -> None:
        """Count a batch and show."""
        trainer = self._trainer
        if trainer is None or not trainer.is_global_zero:
            return
        self._run.pace.count(outputs)
        if in_lines():
            self._run.tell(trainer)
            return
        name = {TrainerFn.TESTING: "test", TrainerFn.VALIDATING: "val", TrainerFn.PREDICTING: "predict"}
        task = getattr(self._bar, f"{name[TrainerFn(trainer.state.fn)]}_progress_bar_id", None)
        if self._bar.progress is not None and task is not None:
            self._bar.progress.update(task, description=self._run.pace.text)
