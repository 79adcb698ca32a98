"""``results.json`` and the table at the end of a run."""

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from lorattt import __version__
from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.run_folder import RESULTS_FILE, find_run_folder, run_name

MEASURES = {"top1": "top-1 %", "top5": "top-5 %", "ece": "ECE %", "nll": "NLL"}


class ResultsWriter(RunObserver):
    """Measures the run, writes ``results.json`` and prints the table, on the first device.

    Runs after :class:`PredictionsWriter`, whose counts it takes. ``images_per_second`` counts from the
    start of the first batch, model and text features excluded, over all devices; ``peak_memory_bytes`` is
    the largest of any device: its allocator's on CUDA, the process's resident set elsewhere.
    """

    def __init__(self) -> None:
        self._started = 0.0

    def started(self, trainer: Trainer, module: Any) -> None:
        """Start the clock."""
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._started = time.perf_counter()

    def ended(self, trainer: Trainer, module: Any) -> None:
        """Write the file and print the table."""
        device = trainer.strategy.root_device
        seconds = time.perf_counter() - self._started  # the devices have met in the merge before
        peak = int(trainer.strategy.reduce(torch.tensor(peak_memory(device), device=device), reduce_op="max"))
        # On every device: the metric adds up their shares here.
        measures: dict[str, float | int] = module.metrics.compute()
        if not trainer.is_global_zero:
            return
        counts = next(c for c in trainer.callbacks if isinstance(c, PredictionsWriter))  # type: ignore[attr-defined]
        row = {
            "method": run_name(module, "name"),
            "dataset": run_name(getattr(trainer, "datamodule", None), "name"),
            "backbone": module.clip.name,
            "corruption": getattr(getattr(trainer, "datamodule", None), "corruption", None),
            **measures,
            "n": counts.rows,
            "images_per_second": counts.rows / seconds,
            "peak_memory_bytes": peak,
            "seed": module.seed,
            "fallbacks": counts.fallbacks,
            "skipped": counts.skipped,
            "versions": {
                "lorattt": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "torchvision", "lightning", "open_clip_torch")},
            },
        }
        folder = find_run_folder(trainer)
        (folder / RESULTS_FILE).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        print(table(row, folder))


def table(row: dict[str, Any], folder: Path) -> str:
    """The results of one run as text."""
    lines = [f"{row['method']} on {row['dataset']}, {row['backbone']}, {row['n']} images", ""]
    if "top1_before" in row:
        lines.append(f"{'':8}  {'before':>8}  {'after':>8}  {'change':>8}")
        for key, title in MEASURES.items():
            factor, digits = (1, 4) if key == "nll" else (100, 2)
            before, after = (factor * row[f"{key}_{when}"] for when in ("before", "after"))
            lines.append(f"{title:8}  {before:8.{digits}f}  {after:8.{digits}f}  {after - before:+8.{digits}f}")
        lines.append("")
    memory = row["peak_memory_bytes"] / 2**20
    lines.append(f"{row['images_per_second']:.1f} images/s, peak memory {memory:,.0f} MiB, seed {row['seed']}")
    if row["fallbacks"] or row["skipped"]:
        lines.append(
            f"{row['fallbacks']} images kept their zero-shot prediction (adaptation not finite), "
            f"{row['skipped']} could not be read"
        )
    return "\n".join(["", *lines, f"written to {folder}"])


def peak_memory(device: torch.device) -> int:
    """Bytes: the allocator's peak on CUDA, elsewhere the largest resident set of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # nothing in the standard library tells it there
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # kilobytes everywhere but on macOS
