"""Times of the stages of a run, and how often a batch did not fit the memory."""

import time
from typing import Any

import torch
from lightning.pytorch import Trainer

from lorattt.callbacks.base import RunObserver

STAGES = ("decode", "transfer", "views", "encode", "adapt", "write")


class StageTimes(RunObserver):
    """Seconds of each stage, and how often a batch did not fit the memory. Comes last in a Trainer's callbacks.

    ``decode`` is the time that the main process waits for the loader, on a CUDA device until the transfer of the pixels
    has started; ``transfer`` is that of the rest of the batch to the device, ``write`` that of the journal. ``views``
    (if the model makes them), ``encode`` and ``adapt`` come from the method's timer: on a CUDA device they are times of
    the device, which overlap with those of the host.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._free = 0.0

    def on_run_start(self, trainer: Trainer, module: Any) -> None:
        """The loader starts."""
        self._seconds = dict.fromkeys(("decode", "transfer"), 0.0)
        self._free = time.perf_counter()

    def on_batch_start(self, trainer: Trainer) -> None:
        """A batch is on the device: it was waited for, then brought there."""
        now = time.perf_counter()
        fetched = getattr(getattr(trainer, "datamodule", None), "fetched_at", None)
        fetched = now if fetched is None else max(fetched, self._free)
        self._seconds["decode"] += fetched - self._free
        self._seconds["transfer"] += now - fetched

    def on_batch_end(self, outputs: Any) -> None:
        """All callbacks before this one are done with the batch."""
        self._free = time.perf_counter()

    def totals(self, trainer: Trainer, module: Any, write: float) -> tuple[dict[str, float], int]:
        """Seconds of each stage (mean over devices) and number of halved batches (sum); call it on every device.

        ``write`` is the time that this device spent on the journal.
        """
        clock, parts = getattr(module, "clock", None), getattr(module, "parts", None)
        own = {**(clock.seconds() if clock is not None else {}), **self._seconds, "write": write}
        # The class texts were encoded while the first batch seemed to be waited for.
        own["decode"] = max(0.0, own["decode"] - own.get("text", 0.0))
        halved = 0 if parts is None else parts.halved
        values = torch.tensor([*(own.get(name, 0.0) for name in STAGES), halved], dtype=torch.float64)
        device = trainer.strategy.root_device
        kind = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        sums = trainer.strategy.reduce(values.to(device, kind), reduce_op="sum").tolist()
        return dict(zip(STAGES, (total / trainer.world_size for total in sums), strict=False)), int(sums[-1])
