"""Progress of a run: accuracy before and after so far, images a second, time left; as a bar, or as lines in a log."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.throughput import RunProgress, in_lines
from lorattt.show import format_duration

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_RICH = {TrainerFn.TESTING: "test", TrainerFn.VALIDATING: "val", TrainerFn.PREDICTING: "predict"}


def progress(callbacks: Any) -> list[Callback]:
    """The callbacks that show the progress of a run.

    Args:
        callbacks: The user's own: one, a list, or none. A progress bar among them replaces ours.
    """
    own = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
    bars = [each for each in own if isinstance(each, ProgressBar)]
    if not bars:
        return [AccuracyBar()]
    return [RichNotes(bars[0])] if isinstance(bars[0], RichProgressBar) else []


class AccuracyBar(TQDMProgressBar):
    """Lightning's bar, with top-1 before and after adaptation so far, images a second and the time left.

    All are of the first device's share, which the bar says if there are others. Of several methods, it shows the last
    one's accuracy. Bar and accuracy of a resumed run include what earlier attempts did; the speed does not. Where the
    screen is no terminal, a line every 30 s replaces the bar; those of a fit have its losses.
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
        """What a fit shows: its losses, and not a logger's version."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def _begin(self, trainer: Trainer, bar: Any) -> None:
        """Before the first batch, add those of earlier attempts to a bar that was just reset."""
        if self._run.begun or trainer.state.fn == TrainerFn.FITTING:
            return
        self._run.begin(trainer)
        if self._lines:
            self._run.show(self._run.line)
        bar.bar_format = _BAR
        if done := self._run.done:
            if bar.total is not None:
                bar.total += done
            bar.n = bar.initial = done
        bar.refresh()

    def _count(self, trainer: Trainer, bar: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Count a batch and show it; the arguments of the hook, with the batches of earlier attempts in the number."""
        if trainer.state.fn == TrainerFn.FITTING:
            return args
        module, outputs, batch, number, *rest = args
        self._run.meter.count(outputs)
        if not self.is_disabled:
            bar.set_postfix_str(self._run.meter.text, refresh=False)
        if self._lines and self._run.due:
            self._run.show(self._run.line)
        return module, outputs, batch, number + self._run.done, *rest

    def on_test_batch_start(self, trainer: Trainer, *args: Any, **_: Any) -> None:
        """Begin with what is done."""
        super().on_test_batch_start(trainer, *args)
        self._begin(trainer, self.test_progress_bar)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **_: Any) -> None:
        """Begin with what is done, unless it belongs to a training."""
        super().on_validation_batch_start(trainer, *args)
        self._begin(trainer, self.val_progress_bar)

    def on_predict_batch_start(self, trainer: Trainer, *args: Any, **_: Any) -> None:
        """Begin with what is done."""
        super().on_predict_batch_start(trainer, *args)
        self._begin(trainer, self.predict_progress_bar)

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **_: Any) -> None:
        """Count a batch and show."""
        super().on_test_batch_end(trainer, *self._count(trainer, self.test_progress_bar, args))

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **_: Any) -> None:
        """Count a batch and show, unless it belongs to a training."""
        super().on_validation_batch_end(trainer, *self._count(trainer, self.val_progress_bar, args))

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **_: Any) -> None:
        """Count a batch and show."""
        super().on_predict_batch_end(trainer, *self._count(trainer, self.predict_progress_bar, args))

    def on_train_start(self, trainer: Trainer, *rest: Any) -> None:
        """Begin."""
        super().on_train_start(trainer, *rest)
        left = (trainer.max_epochs or 0) - trainer.current_epoch
        self._run.meter.begin(left * self.total_train_batches if left > 0 else None)
        if self._lines:
            self._run.show(f"fitting: epoch {trainer.current_epoch}, {self.total_train_batches} batches each")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the losses."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._run.meter.batches += 1
        if self._lines and self._run.due:
            values = self.get_metrics(trainer, pl_module).items()
            shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values]
            left = self._run.meter.left
            shown += [] if left is None else [f"{format_duration(left)} left"]
            place = f"epoch {trainer.current_epoch}, {batch_idx + 1}/{self.total_train_batches} batches"
            self._run.show(f"fitting: {place}: {', '.join(shown)}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line, so that the message does not run into the bar."""
        bars = (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar)
        for bar in bars:
            if bar is not None:
                bar.close()


class RichNotes(RunObserver):
    """Shows what :class:`AccuracyBar` shows in Lightning's rich bar, or in lines where there is no terminal.

    Args:
        bar: The Trainer's bar; comes before this in its callbacks.
    """

    def __init__(self, bar: RichProgressBar) -> None:
        self._bar = bar
        self._run = RunProgress()
        self._trainer: Trainer | None = None

    def on_run_start(self, trainer: Trainer, module: Any) -> None:
        """Start counting."""
        self._run = RunProgress()
        self._trainer = trainer if trainer.is_global_zero else None

    def on_batch_start(self, trainer: Trainer) -> None:
        """Begin with what is done."""
        if self._trainer is not None and not self._run.begun:
            self._run.begin(trainer)
            if in_lines():
                self._run.show(self._run.line)

    def on_batch_end(self, outputs: Any) -> None:
        """Count a batch and show."""
        if self._trainer is None:
            return
        self._run.meter.count(outputs)
        if in_lines():
            if self._run.due:
                self._run.show(self._run.line)
            return
        task = getattr(self._bar, f"{_RICH[TrainerFn(self._trainer.state.fn)]}_progress_bar_id", None)
        if self._bar.progress is not None and task is not None:
            self._bar.progress.update(task, description=self._run.meter.text)
