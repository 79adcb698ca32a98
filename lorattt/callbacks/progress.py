"""Progress of a run: accuracy before and after so far, images a second, time left; as a bar, or as lines in a log."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import RunObserver, find_callback
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.ranking import is_right
from lorattt.show import format_duration, speed

SECONDS = 30.0
"""Between two lines, where the screen is no terminal."""

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
# As Lightning calls its bars and loaders, and as lines begin.
_STAGES = {"test": ("test", "testing"), "validate": ("val", "validating"), "predict": ("predict", "predicting")}


def progress(callbacks: Any) -> list[Callback]:
    """The callbacks that show the progress of a run.

    Args:
        callbacks: The user's own: one, a list, or none. A progress bar among them replaces ours.
    """
    own = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
    bars = [each for each in own if isinstance(each, ProgressBar)]
    if not bars:
        bar = AccuracyBar()
        return [bar, RunProgress(bar)]
    return [RunProgress(bars[0])] if isinstance(bars[0], AccuracyBar | RichProgressBar) else []


def in_lines() -> bool:
    """Whether the screen is a file or a pipe, in which a bar would be one long line; notebooks draw it."""
    return not sys.stdout.isatty() and "ipykernel" not in sys.modules


class AccuracyBar(TQDMProgressBar):
    """Lightning's bar; in a test, a validation and a prediction a :class:`RunProgress` behind it moves it."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """What a fit shows: its losses, and not a logger's version."""
        return trainer.progress_bar_metrics

    def draw(self, stage: str, done: int, left: float, text: str) -> None:
        """Show the number of batches done, of those in all, and a text."""
        bar = getattr(self, f"{stage}_progress_bar")
        bar.bar_format, bar.n = _BAR, done
        bar.total = None if math.isinf(left) else done + int(left)
        if self._should_update(done, bar.total):
            bar.set_postfix_str(text)

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        """Leave it to :class:`RunProgress`, which knows of earlier attempts."""

    on_predict_batch_end = on_test_batch_end

    def on_validation_batch_end(self, trainer: Trainer, *rest: Any, **more: Any) -> None:
        """The same, except during a fit."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_batch_end(trainer, *rest, **more)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line, so that the message does not run into the bar."""
        bars = (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar)
        for bar in bars:
            if bar is not None:
                bar.close()


class RunProgress(RunObserver):
    """Shows accuracy, speed and time left in a bar, or in lines where the screen is no terminal.

    All are of the first device's share, which the text says if there are others. Of several methods, it is the last
    one's accuracy, which includes earlier attempts of a resumed run; the speed does not. A fit's lines have its losses.

    Args:
        bar: The Trainer's bar; comes before this in its callbacks.
    """

    def __init__(self, bar: AccuracyBar | RichProgressBar) -> None:
        self._bar = bar
        self._first, self._lines, self._begun = True, False, False  # this is the first device; lines, not a bar
        self._stage, self._doing, self._shown_at = "", "", -math.inf
        self.start(None)

    def start(
        self, batches: float | None, right: tuple[int, int, int] = (0, 0, 0), world: int = 1, done: int = 0
    ) -> None:
        """Start the clock.

        Args:
            batches: How many are left; None or infinite if unknown.
            right: Of earlier attempts: images with a label, and how many were right before and after.
            world: Number of devices.
            done: Batches of earlier attempts.
        """
        self._labelled, self._before, self._after = right
        self._images = self._batches = 0
        self._total = math.inf if batches is None else batches
        self._world, self._done = world, done
        self._started = time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose between a bar and lines."""
        self._first, self._lines, self._begun = trainer.is_global_zero, in_lines(), False
        self._shown_at = -math.inf
        if self._first and isinstance(self._bar, AccuracyBar):
            (self._bar.disable if self._lines else self._bar.enable)()

    def on_batch_start(self, trainer: Trainer) -> None:
        """Before the first batch, start with what earlier attempts did; the bar was just reset."""
        if self._begun or not self._first:
            return
        self._begun = True
        self._stage, self._doing = _STAGES[TrainerFn(trainer.state.fn).value]
        right, done, writer = (0, 0, 0), 0, find_callback(trainer, PredictionsWriter)
        if writer is not None and writer.resumed:
            right = writer.right
            # To predict, Lightning hides the size within a sampler of its own.
            loader = getattr(trainer, f"{self._stage}_dataloaders")
            size: Any = getattr(loader, "batch_size", None) or getattr(loader.batch_sampler, "batch_size", 1)
            done = math.ceil(writer.resumed / (size * trainer.world_size))
        self.start(sum(getattr(trainer, f"num_{self._stage}_batches")), right, trainer.world_size, done)
        self._show()

    def on_batch_end(self, outputs: Any) -> None:
        """Count a batch and show it."""
        if self._first:
            self.count(outputs)
            if self._due or not self._lines:
                self._show()

    def count(self, outputs: Any) -> None:
        """Count a batch; of several methods the last one's answers."""
        label, answer = outputs["label"], list(outputs["methods"].values())[-1]
        self._labelled += int((label >= 0).sum())
        self._before += int(is_right(answer["before"], label).sum())
        self._after += int(is_right(answer["after"], label).sum())
        self._images += len(label)
        self._batches += 1

    def _left(self) -> list[str]:
        """The time until the last batch is done, at the mean speed so far; empty if unknown."""
        if not self._batches or math.isinf(self._total):
            return []
        seconds = (self._total - self._batches) * (time.monotonic() - self._started) / self._batches
        return [f"{format_duration(seconds)} left"]

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
        parts += self._left()
        if parts and self._world > 1:
            parts.append(f"of the first of {self._world} devices alone")
        return ", ".join(parts)

    @property
    def _due(self) -> bool:
        """Whether a line is due: the last, or :data:`SECONDS` after another."""
        return time.monotonic() - self._shown_at >= SECONDS or self._batches == self._total

    def _show(self) -> None:
        """Show the batches done and :attr:`text`."""
        done, text = self._done + self._batches, self.text if self._batches else ""
        if self._lines:
            total = "" if math.isinf(self._total) else f"/{self._total + self._done:.0f}"
            self._print(f"{self._doing}: {done}{total} batches{text and f': {text}'}")
        elif isinstance(self._bar, AccuracyBar):
            self._bar.draw(self._stage, done, self._total - self._batches, text)
        else:
            task = getattr(self._bar, f"{self._stage}_progress_bar_id", None)
            if text and self._bar.progress is not None and task is not None:
                self._bar.progress.update(task, description=text)

    def _print(self, line: str) -> None:
        self._shown_at = time.monotonic()
        print(line, flush=True)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Start the clock."""
        batches = self._bar.total_train_batches
        left = (trainer.max_epochs or 0) - trainer.current_epoch
        self.start(left * batches if left > 0 else None)
        if self._lines and self._first:
            self._print(f"fitting: epoch {trainer.current_epoch}, {batches} batches each")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the losses in a line."""
        self._batches += 1
        if self._lines and self._first and self._due:
            values = trainer.progress_bar_metrics.items()
            shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values]
            place = f"epoch {trainer.current_epoch}, {batch_idx + 1}/{self._bar.total_train_batches} batches"
            self._print(f"fitting: {place}: {', '.join([*shown, *self._left()])}")
