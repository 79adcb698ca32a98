"""Progress of a run: accuracy before and after so far, images a second, time left; as a bar, or as lines in a log."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import RunObserver, answers_of, find_callback
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.ranking import is_right
from lorattt.show import format_duration, speed

SECONDS = 30.0
"""Between two lines, where the screen is no terminal."""

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_DOING = {"test": "testing", "val": "validating", "predict": "predicting"}
_HOOKS = {"test": "test", "val": "validation", "predict": "predict"}


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


def in_lines() -> bool:
    """Whether the screen is a file or a pipe, in which a bar would be one long line; notebooks draw it."""
    return not sys.stdout.isatty() and "ipykernel" not in sys.modules


class RunProgress:
    """Accuracy, speed and time left of one device, and the lines that show them where the screen is no terminal.

    Speed and time left are of this attempt's images and batches; accuracy is also of those of earlier attempts.

    Attributes:
        lines: Whether lines are printed.
        begun: Whether the first batch of a test, a validation or a prediction has started.
        done: Batches of earlier attempts.
        batches: Batches of this attempt so far.
    """

    def __init__(self, lines: bool = False) -> None:
        self.lines, self.begun, self.done = lines, False, 0
        self._doing, self._shown_at = "", -math.inf
        self.start(None)

    def start(self, batches: float | None, right: tuple[int, int, int] = (0, 0, 0), world: int = 1) -> None:
        """Start the clock.

        Args:
            batches: How many are left; None or infinite if unknown.
            right: Of earlier attempts: images with a label, and how many were right before and after.
            world: Number of devices.
        """
        self._labelled, self._before, self._after = right
        self._images = self.batches = 0
        self._total = math.inf if batches is None else batches
        self._world = world
        self._started = time.monotonic()

    def begin(self, trainer: Trainer) -> None:
        """Start with what earlier attempts of a test, a validation or a prediction did."""
        self.begun, stage = True, stage_of(trainer)
        self._doing, right = _DOING[stage], (0, 0, 0)
        writer = find_callback(trainer, PredictionsWriter)
        if writer is not None and writer.resumed:
            right = writer.right
            # To predict, Lightning hides the size within a sampler of its own.
            loader = getattr(trainer, f"{stage}_dataloaders")
            size: Any = getattr(loader, "batch_size", None) or getattr(loader.batch_sampler, "batch_size", 1)
            self.done = math.ceil(writer.resumed / (size * trainer.world_size))
        self.start(sum(getattr(trainer, f"num_{stage}_batches")), right, trainer.world_size)
        if self.lines:
            self.show()

    def count(self, outputs: Any) -> None:
        """Count a batch; of several methods the last one's answers."""
        label, answer = outputs["label"], answers_of(outputs)[-1]
        self._labelled += int((label >= 0).sum())
        self._before += int(is_right(answer["before"], label).sum())
        self._after += int(is_right(answer["after"], label).sum())
        self._images += len(label)
        self.batches += 1
        if self.due:
            self.show()

    @property
    def left(self) -> float | None:
        """Seconds until the last batch is done, at the mean speed so far; None if unknown."""
        if not self.batches or math.isinf(self._total):
            return None
        return (self._total - self.batches) * (time.monotonic() - self._started) / self.batches

    @property
    def text(self) -> str:
        """Accuracy if there are labels, speed and time left."""
        parts = []
        if self._labelled:
            before, after = (100 * hits / self._labelled for hits in (self._before, self._after))
            parts.append(f"top-1 {before:.1f} -> {after:.1f} %")
        seconds = time.monotonic() - self._started
        if self._images and seconds > 0:
            parts.append(f"{speed(self._images / seconds)} images/s")
        if (left := self.left) is not None:
            parts.append(f"{format_duration(left)} left")
        if parts and self._world > 1:
            parts.append(f"of the first of {self._world} devices alone")
        return ", ".join(parts)

    def show(self, line: str = "") -> None:
        """Print a line; by default batches done and :attr:`text`."""
        total = "" if math.isinf(self._total) else f"/{self._total + self.done:.0f}"
        text = f": {self.text}" if self.batches else ""
        self._shown_at = time.monotonic()
        print(line or f"{self._doing}: {self.batches + self.done}{total} batches{text}", flush=True)

    @property
    def due(self) -> bool:
        """Whether a line is due: the first, the last, or :data:`SECONDS` after another."""
        return self.lines and (time.monotonic() - self._shown_at >= SECONDS or self.batches == self._total)


def stage_of(trainer: Trainer) -> str:
    """``test``, ``predict`` or ``val``, as Lightning calls its bars and loaders."""
    return {TrainerFn.TESTING: "test", TrainerFn.PREDICTING: "predict"}.get(TrainerFn(trainer.state.fn), "val")


class AccuracyBar(TQDMProgressBar):
    """Lightning's bar, with top-1 before and after adaptation so far, images a second and the time left.

    All are of the first device's share, which the bar says if there are others. Of several methods, it shows the last
    one's accuracy. Bar and accuracy of a resumed run include what earlier attempts did; the speed does not. Where the
    screen is no terminal, a line every 30 s replaces the bar; those of a fit have its losses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._run = RunProgress()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start counting."""
        super().setup(trainer, pl_module, stage)
        self.teardown(trainer, pl_module, stage)  # of a run that ended early
        self._run = RunProgress(lines=in_lines() and self.is_enabled)
        if self._run.lines:
            self.disable()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The next run may have a terminal."""
        if self._run.lines:
            self.enable()
            self._run.lines = False

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """What a fit shows: its losses, and not a logger's version."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def _batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before the first batch, add those of earlier attempts to the bar, which was just reset."""
        stage = stage_of(trainer)
        getattr(super(), f"on_{_HOOKS[stage]}_batch_start")(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if self._run.begun or trainer.state.fn == TrainerFn.FITTING:
            return
        self._run.begin(trainer)
        bar = getattr(self, f"{stage}_progress_bar")
        bar.bar_format = _BAR
        if done := self._run.done:
            if bar.total is not None:
                bar.total += done
            bar.n = bar.initial = done
        bar.refresh()

    def _batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch and show it, with the batches of earlier attempts in its number."""
        stage = stage_of(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            self._run.count(outputs)
            if not self.is_disabled:
                getattr(self, f"{stage}_progress_bar").set_postfix_str(self._run.text, refresh=False)
            batch_idx += self._run.done
        hook = getattr(super(), f"on_{_HOOKS[stage]}_batch_end")
        hook(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    on_test_batch_start = on_validation_batch_start = on_predict_batch_start = _batch_start
    on_test_batch_end = on_validation_batch_end = on_predict_batch_end = _batch_end

    def on_train_start(self, trainer: Trainer, *rest: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer, *rest)
        left = (trainer.max_epochs or 0) - trainer.current_epoch
        self._run.start(left * self.total_train_batches if left > 0 else None)
        if self._run.lines:
            self._run.show(f"fitting: epoch {trainer.current_epoch}, {self.total_train_batches} batches each")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the losses."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._run.batches += 1
        if self._run.due:
            values = self.get_metrics(trainer, pl_module).items()
            shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values]
            left = self._run.left
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
        """Start counting, on the first device."""
        self._run = RunProgress(lines=in_lines())
        self._trainer = trainer if trainer.is_global_zero else None

    def on_batch_start(self, trainer: Trainer) -> None:
        """Begin with what is done."""
        if self._trainer is not None and not self._run.begun:
            self._run.begin(trainer)

    def on_batch_end(self, outputs: Any) -> None:
        """Count a batch and show it."""
        if self._trainer is None:
            return
        self._run.count(outputs)
        task = getattr(self._bar, f"{stage_of(self._trainer)}_progress_bar_id", None)
        if not self._run.lines and self._bar.progress is not None and task is not None:
            self._bar.progress.update(task, description=self._run.text)
