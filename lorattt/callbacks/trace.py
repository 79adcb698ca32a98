"""``trace.json``: what host and device do in the first batches of a run, for a timeline viewer."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.profiler import ProfilerAction, ProfilerActivity, profile

from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.journal import saving
from lorattt.callbacks.run_folder import find_run

_BATCHES = 4
_ROWS = 30  # of the table


class TraceWriter(RunObserver):
    """Profiles the first batches on the first device and leaves ``trace.json`` and ``trace.txt`` in the run's folder.

    The trace opens in Perfetto or Chrome's trace viewer; the table lists the costliest operations. Lightning's
    PyTorchProfiler would choose its folder before the run's folder is known.
    """

    def __init__(self) -> None:
        self._profile: profile | None = None

    def on_run_start(self, trainer: Trainer, module: Any) -> None:
        """Start to record."""
        if not trainer.is_global_zero:
            return
        file, device = find_run(trainer).path / "trace.json", trainer.strategy.root_device.type

        def write(recorded: profile) -> None:
            with saving(file):
                recorded.export_chrome_trace(str(file))
                table = recorded.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=_ROWS)
                file.with_suffix(".txt").write_text(table, encoding="utf-8")
            print(f"\nthe first batches are traced in {file} and trace.txt")

        # torch's own schedule would warn that there is no warm-up.
        actions = {
            **dict.fromkeys(range(_BATCHES), ProfilerAction.RECORD),
            _BATCHES - 1: ProfilerAction.RECORD_AND_SAVE,
        }
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])],
            schedule=lambda batch: actions.get(batch, ProfilerAction.NONE),
            on_trace_ready=write,
        )
        self._profile.start()

    def on_batch_end(self, outputs: Any) -> None:
        """Write after the last batch that is recorded."""
        if self._profile is not None:
            self._profile.step()

    def on_run_end(self, trainer: Trainer, module: Any) -> None:
        """Write the trace of a run that was shorter."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording, and write nothing."""
        if self._profile is not None:
            self._profile.on_trace_ready = None
            self.on_run_end(trainer, pl_module)
