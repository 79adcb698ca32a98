"""``trace.json``: what host and device do in the first batches of a run, for a timeline viewer."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.journal import saving
from lorattt.callbacks.run_folder import find_run_folder

TRACE_FILE, TABLE_FILE = "trace.json", "trace.txt"
_BATCHES = 4
_ROWS = 30


class TraceWriter(RunObserver):
    """Profiles the first batches on the first device and leaves ``trace.json`` and ``trace.txt`` in the run's folder.

    The trace opens in Perfetto or Chrome's trace viewer; the table lists the costliest operations. Profiling slows
    these batches down.
    """

    def __init__(self) -> None:
        self._profile: Any = None
        self._seen = 0
        self._trainer: Trainer | None = None

    def started(self, trainer: Trainer, module: Any) -> None:
        """Begin to record."""
        self._seen, self._trainer = 0, trainer
        if trainer.is_global_zero:
            cuda = [ProfilerActivity.CUDA] if trainer.strategy.root_device.type == "cuda" else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *cuda])
            self._profile.start()

    def took(self, outputs: Any) -> None:
        """Count the batch; after the last one that is recorded, write."""
        self._seen += 1
        if self._seen == _BATCHES:
            self._write()

    def ended(self, trainer: Trainer, module: Any) -> None:
        """Write what a shorter run gave."""
        self._write()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self) -> None:
        if self._profile is None or self._trainer is None:
            return
        recorded, self._profile = self._profile, None
        recorded.stop()
        folder = find_run_folder(self._trainer)
        device = self._trainer.strategy.root_device.type
        with saving(folder / TRACE_FILE, folder):
            recorded.export_chrome_trace(str(folder / TRACE_FILE))
            table = recorded.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=_ROWS)
            (folder / TABLE_FILE).write_text(table, encoding="utf-8")
        print(f"\nthe first {self._seen} batches are traced in {folder / TRACE_FILE} and {TABLE_FILE}")
