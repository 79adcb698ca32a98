"""How far a run is and how fast, as text."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import answers_of, find_callback
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.ranking import is_right
from lorattt.show import format_duration, speed

SECONDS = 30.0
"""Between two lines, where the screen is no terminal."""


class ThroughputMeter:
    """Accuracy, speed and time left of one device.

    Speed and time left are of the images and batches since :meth:`begin`; accuracy is also of those that earlier
    attempts of the run classified.
    """

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, batches: float | None, right: tuple[int, int, int] = (0, 0, 0), world: int = 1) -> None:
        """Start the clock.

        Args:
            batches: How many are left; None or infinite if unknown.
            right: Of earlier attempts: images with a label, and how many were right before and after.
            world: Number of devices.
        """
        self.seen, self.before, self.after = right
        self.images = self.batches = 0
        self._total = math.inf if batches is None else batches
        self._world = world
        self._started = time.monotonic()

    def count(self, outputs: Any) -> None:
        """Count a batch; of several methods the last one's answers."""
        label = outputs["label"]
        answer = answers_of(outputs)[-1]
        self.seen += int((label >= 0).sum())
        self.before += int(is_right(answer["before"], label).sum())
        self.after += int(is_right(answer["after"], label).sum())
        self.images += len(label)
        self.batches += 1

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
        if self.seen:
            before, after = (100 * hits / self.seen for hits in (self.before, self.after))
            parts.append(f"top-1 {before:.1f} -> {after:.1f} %")
        seconds = time.monotonic() - self._started
        if self.images and seconds > 0:
            parts.append(f"{speed(self.images / seconds)} images/s")
        if (left := self.left) is not None:
            parts.append(f"{format_duration(left)} left")
        if parts and self._world > 1:
            parts.append(f"of the first of {self._world} devices alone")
        return ", ".join(parts)


class RunProgress:
    """The progress of a run, and the lines that show it where the screen is no terminal.

    Attributes:
        meter: Speed and accuracy.
        begun: Whether the first batch has started.
        done: Batches of earlier attempts.
    """

    def __init__(self) -> None:
        self.meter = ThroughputMeter()
        self.begun = False
        self.done = 0
        self._total: float = 0
        self._last = -math.inf
        self._doing = ""

    def begin(self, trainer: Trainer) -> None:
        """Start with what earlier attempts of a test, a validation or a prediction did."""
        self.begun = True
        self._doing, batches, loader = {
            TrainerFn.TESTING: ("testing", trainer.num_test_batches, trainer.test_dataloaders),
            TrainerFn.VALIDATING: ("validating", trainer.num_val_batches, trainer.val_dataloaders),
            TrainerFn.PREDICTING: ("predicting", trainer.num_predict_batches, trainer.predict_dataloaders),
        }[TrainerFn(trainer.state.fn)]
        self._total, right = sum(batches), (0, 0, 0)
        writer = find_callback(trainer, PredictionsWriter)
        if writer is not None and writer.resumed:
            right = writer.right
            # To predict, Lightning hides the size within a sampler of its own.
            sampler: Any = getattr(loader, "batch_sampler", None)
            size: Any = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", 1)
            self.done = math.ceil(writer.resumed / (size * trainer.world_size))
        self.meter.begin(self._total, right, trainer.world_size)

    @property
    def line(self) -> str:
        """Batches done, then what the meter shows."""
        total = "" if math.isinf(self._total) else f"/{self._total + self.done:.0f}"
        text = f": {self.meter.text}" if self.meter.batches else ""
        return f"{self._doing}: {self.meter.batches + self.done}{total} batches{text}"

    @property
    def due(self) -> bool:
        """Whether a line is due: the first, the last, or :data:`SECONDS` after another."""
        return time.monotonic() - self._last >= SECONDS or self.meter.batches == self._total

    def show(self, line: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        print(line, flush=True)


def in_lines() -> bool:
    """Whether the screen is a file or a pipe, in which a bar would be one long line; notebooks draw it."""
    return not sys.stdout.isatty() and "ipykernel" not in sys.modules
