"""How far a run is, and how fast: counts, and the words for them."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import answers_of, find_callback
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.ranking import is_right
from lorattt.show import clock, speed

SECONDS = 30.0
"""Between two lines, where the screen is no terminal."""

_DOING = {TrainerFn.TESTING: "testing", TrainerFn.VALIDATING: "validating", TrainerFn.PREDICTING: "predicting"}


class Pace:
    """What was done so far, and how fast, by one device.

    Speed and time left are of the images and batches since :meth:`begin`; accuracy is also of those that earlier
    attempts of the run classified.
    """

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, batches: float | None, right: tuple[int, int, int] = (0, 0, 0), world: int = 1) -> None:
        """Start the clock.

        Args:
            batches: How many are to do; None or infinite where that is not known.
            right: Of earlier attempts: images with a label, and how many were right before and after.
            world: Number of devices.
        """
        self.seen, self.before, self.after = right
        self.images = self.batches = 0
        self._to_do = batches
        self._world = world
        self._started = time.monotonic()

    def count(self, outputs: Any) -> None:
        """Count a batch; of several methods the last one's answers."""
        label = outputs["label"]
        answer = list(answers_of(outputs).values())[-1]
        self.seen += int((label >= 0).sum())
        self.before += int(is_right(answer["before"], label).sum())
        self.after += int(is_right(answer["after"], label).sum())
        self.images += len(label)
        self.batches += 1

    @property
    def left(self) -> float | None:
        """Seconds until the last batch is done, at the mean pace so far; None where that is not known."""
        if not self.batches or self._to_do is None or math.isinf(self._to_do):
            return None
        return (self._to_do - self.batches) * (time.monotonic() - self._started) / self.batches

    @property
    def text(self) -> str:
        """Accuracy if there are labels, speed and time left, of this device alone where there are others."""
        parts = []
        if self.seen:
            before, after = (100 * hits / self.seen for hits in (self.before, self.after))
            parts.append(f"top-1 {before:.1f} -> {after:.1f} %")
        seconds = time.monotonic() - self._started
        if self.images and seconds > 0:
            parts.append(f"{speed(self.images / seconds)} images/s")
        if (left := self.left) is not None:
            parts.append(f"{clock(left)} left")
        if parts and self._world > 1:
            parts.append(f"of the first of {self._world} devices alone")
        return ", ".join(parts)


class Lines:
    """Prints lines that a log can be read by while the run goes on, and says when the next one is due."""

    def __init__(self) -> None:
        self._last = -math.inf

    def tell(self, line: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        print(line, flush=True)

    @property
    def due(self) -> bool:
        """Whether a line is due: the first one, or :data:`SECONDS` after the last."""
        return time.monotonic() - self._last >= SECONDS


def in_lines() -> bool:
    """Whether the screen is a file or a pipe, in which a bar would be one long line; notebooks draw it."""
    return not sys.stdout.isatty() and "ipykernel" not in sys.modules


class RunProgress:
    """The progress of a test, a validation or a prediction, and its lines."""

    def __init__(self) -> None:
        self.pace, self.lines = Pace(), Lines()
        self.done = 0
        self._to_do: float = 0

    def begin(self, trainer: Trainer, to_do: float, loader: Any, *, lines: bool) -> None:
        """Start with what earlier attempts did."""
        writer = find_callback(trainer, PredictionsWriter)
        self.done, self._to_do, right = 0, to_do, (0, 0, 0)
        if writer is not None and writer.resumed:
            right = writer.right
            # To predict, Lightning hides the size within a sampler of its own.
            sampler: Any = getattr(loader, "batch_sampler", None)
            size: Any = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", 1)
            self.done = math.ceil(writer.resumed / (size * trainer.world_size))
        self.pace.begin(to_do, right, trainer.world_size)
        if lines:
            self.lines.tell(self._place(trainer))

    def tell(self, trainer: Trainer) -> None:
        """Print a line if it is due, or the last one."""
        if self.lines.due or self.pace.batches == self._to_do:
            self.lines.tell(f"{self._place(trainer)}: {self.pace.text}")

    def _place(self, trainer: Trainer) -> str:
        total = "" if math.isinf(self._to_do) else f"/{self._to_do + self.done:.0f}"
        doing = "running" if trainer.state.fn is None else _DOING.get(trainer.state.fn, "running")
        return f"{doing}: {self.pace.batches + self.done}{total} batches"
