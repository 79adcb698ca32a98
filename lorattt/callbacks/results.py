"""``results.json`` and the table at the end of a run."""

import json
import math
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from lorattt import __version__
from lorattt.calibration import ECE_BINS
from lorattt.callbacks.base import RunObserver, dataset_name, find_callback, methods_of
from lorattt.callbacks.journal import saving
from lorattt.callbacks.merge import atomic_write
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.run_folder import RESULTS_FILE, find_run, results_in
from lorattt.show import speed

MEASURES = {"top1": ("top-1 %", 2), "top5": ("top-5 %", 2), "ece": ("ECE %", 2), "nll": ("NLL", 4)}
"""Of the table: titles, and digits behind the point."""

# Lines below the table, after the number under this key; results of an earlier version lack the last two.
_TROUBLE = {
    "skipped": "images could not be read",
    "not_finite": "images have no finite answer without adaptation: try model.clip.dtype fp32, or a fresh checkpoint",
    "batches_halved": "times a batch did not fit the memory and was halved: a smaller data.batch_size saves that",
}

FORMAT = 2
"""Of ``results.json``, which :mod:`lorattt.report.runs` reads: incremented when a key or the layout of a run's folder
changes its meaning. Since 2, ``<run's folder>/<method>/`` has a method's files, also where it is the only one."""

STAGES = ("decode", "transfer", "views", "encode", "adapt", "write")
"""Of a run, whose seconds are measured; ``docs/scaling.md`` describes them. Those of the method's timer (``views``,
``encode``, ``adapt``) are times of a CUDA device, which overlap with those of the host."""


class ResultsWriter(RunObserver):
    """Writes each method's ``results.json`` and prints the table, on the first device.

    Comes after PredictionsWriter and others whose time must not count as waiting for the next batch.
    Keys of ``results.json`` beside the measures:

    - ``images_per_second``: over all devices, from the first batch on, without loading the model and text features.
    - ``peak_memory_bytes``: the largest of any device; CUDA's allocator, elsewhere the process's resident set.
    - ``stages``: seconds of each of :data:`STAGES`; ``batches_halved``: how often a batch did not fit the memory.
    - ``not_finite``: images whose logits are not finite without adaptation; ``ece_bins``: of the calibration error.
    - ``directory``: the folder that relative paths in the configuration start from.
    - ``resumed``: images that earlier attempts classified. Speed, stages and memory are those of the last attempt that
      classified any; the speed is 0 if that one wrote no results.
    - ``shared_with``: the other methods of the run; speed and memory are those of all together.
    """

    def __init__(self) -> None:
        self._started = self._free = 0.0
        self._seconds: dict[str, float] = {}

    def on_run_start(self, trainer: Trainer, module: Any) -> None:
        """Start the clocks: the loader starts too."""
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._seconds = dict.fromkeys(("decode", "transfer"), 0.0)
        self._started = self._free = time.perf_counter()

    def on_batch_start(self, trainer: Trainer) -> None:
        """A batch is on the device: it was waited for, then brought there."""
        now = time.perf_counter()
        fetched = getattr(getattr(trainer, "datamodule", None), "fetched_at", None)
        fetched = now if fetched is None else max(fetched, self._free)
        self._seconds["decode"] += fetched - self._free
        self._seconds["transfer"] += now - fetched

    def on_batch_end(self, outputs: Any) -> None:
        """The batch is in the journal; from here on the next one is waited for."""
        self._free = time.perf_counter()

    def stages(self, trainer: Trainer, module: Any, write: float) -> tuple[dict[str, float], int]:
        """Seconds of each stage (mean over devices) and number of halved batches (sum); call it on every device."""
        own = {**module.clock.seconds(), **self._seconds, "write": write}
        # The class texts were encoded while the first batch seemed to be waited for.
        own["decode"] = max(0.0, own["decode"] - own.get("text", 0.0))
        values = torch.tensor([*(own.get(name, 0.0) for name in STAGES), module.parts.halved], dtype=torch.float64)
        device = trainer.strategy.root_device
        kind = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        sums = trainer.strategy.reduce(values.to(device, kind), reduce_op="sum").tolist()
        return dict(zip(STAGES, (total / trainer.world_size for total in sums), strict=False)), int(sums[-1])

    def on_run_end(self, trainer: Trainer, module: Any) -> None:
        """Write the files and print the table."""
        device = trainer.strategy.root_device
        seconds = time.perf_counter() - self._started  # the merge before has synchronised the devices
        # The class texts are encoded after all observers have started.
        seconds -= module.clock.seconds().get("text", 0.0)
        peak = int(trainer.strategy.reduce(torch.tensor(peak_memory(device), device=device), reduce_op="max"))
        counts = find_callback(trainer, PredictionsWriter)
        assert counts is not None, "results are of what was written"
        stages, halved = self.stages(trainer, module, counts.seconds)
        if not trainer.is_global_zero:
            return
        totals, folder = counts.totals, find_run(trainer).path
        course = {
            "resumed": counts.resumed,
            "images_per_second": counts.classified / seconds,
            "peak_memory_bytes": peak,
            "batches_halved": halved,
            "stages": stages,
        }
        if not counts.classified:  # an earlier attempt classified all images, and may have written results
            course |= _earlier(folder, course)
        data, methods, rows = getattr(trainer, "datamodule", None), methods_of(module), []
        versions = {name: version(name) for name in ("torch", "torchvision", "lightning", "open_clip_torch")}
        for name, method in methods.items():
            measures, stage2 = totals.measures[name], getattr(method, "stage2_report", None)
            row = {
                "format": FORMAT,
                "method": name,
                "dataset": dataset_name(trainer),
                "backbone": module.clip.name,
                "preprocessing": module.clip.preprocess,
                "corruption": getattr(data, "corruption", None),
                **measures,
                **({"ece_bins": ECE_BINS} if "ece_after" in measures else {}),
                "n": totals.rows,
                **course,
                "seed": module.seed,
                "fallbacks": totals.fallbacks[name],
                "not_finite": totals.not_finite[name],
                "skipped": totals.skipped,
                **({"stage2": asdict(stage2)} if stage2 else {}),
                "shared_with": [other for other in methods if other != name],
                "directory": str(Path.cwd()),
                "versions": {"lorattt": __version__, "python": platform.python_version(), **versions},
            }
            # JSON has no NaN.
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            path = folder / name / RESULTS_FILE
            with saving(path, folder), atomic_write(path) as file:
                file.write(json.dumps(finite, indent=2, allow_nan=False) + "\n")
            rows.append(row)
        print(table_of(rows, folder))


def _earlier(folder: Path, course: Mapping[str, Any]) -> dict[str, Any]:
    """Speed and the like from an earlier attempt's results, the same for all methods; empty without any."""
    for path in results_in(folder):
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(path.read_text(encoding="utf-8"))
            return {key: row[key] for key in course}
    return {}


def table_of(rows: list[dict[str, Any]], folder: Path) -> str:
    """The results of a run's methods as text."""
    first, several = rows[0], len(rows) > 1
    what = f"{len(rows)} methods" if several else first["method"]
    lines = ["", f"{what} on {first['dataset']}, {first['backbone']}, {first['n']} images", ""]
    if "top1_before" in first:
        lines += [*(_side_by_side(rows) if several else _before_and_after(first)), ""]
    memory, rate = first["peak_memory_bytes"] / 2**20, first["images_per_second"]
    fast = f"{speed(rate)} images/s{' for all methods together' * several}"
    fast = fast if rate > 0 else "speed not known: an earlier attempt classified all images"
    lines.append(f"{fast}, peak memory {memory:,.0f} MiB, seed {first['seed']}")
    for row in rows:
        if count := row["fallbacks"]:
            whose = f"{row['method']}: " if several else ""
            lines.append(f"{whose}{count} images kept their zero-shot prediction (adaptation not finite)")
    lines += [f"{first[key]} {text}" for key, text in _TROUBLE.items() if first.get(key)]
    return "\n".join([*lines, f"written to {folder}{', a folder for each method' * several}"])


def _before_and_after(row: dict[str, Any]) -> list[str]:
    """A line for each measure of one method."""
    lines = [f"{'':8}  {'before':>8}  {'after':>8}  {'change':>8}"]
    for key, (title, digits) in MEASURES.items():
        before, after = (_scaled(row, key, when) for when in ("before", "after"))
        lines.append(f"{title:8}  {before:8.{digits}f}  {after:8.{digits}f}  {after - before:+8.{digits}f}")
    if interval := _interval(row):
        lines[1] += f"   (95 %: {interval})"
    return lines


def _side_by_side(rows: list[dict[str, Any]]) -> list[str]:
    """A line for before, then one for each method."""
    width = max(len("before"), *(len(row["method"]) for row in rows))
    titles = [f"{title:>8}" for title, _ in MEASURES.values()]
    lines = ["  ".join([" " * width, *titles, "change of top-1" + " (95 %)" * any(map(_interval, rows))])]
    for name, row, when in [("before", rows[0], "before"), *((row["method"], row, "after") for row in rows)]:
        cells = [f"{_scaled(row, key, when):8.{digits}f}" for key, (_, digits) in MEASURES.items()]
        if when == "after":
            change = f"{_scaled(row, 'top1', 'after') - _scaled(row, 'top1', 'before'):+6.2f}"
            cells.append(f"{change} ({interval})" if (interval := _interval(row)) else change)
        lines.append("  ".join([f"{name:{width}}", *cells]))
    return lines


def _interval(row: dict[str, Any]) -> str:
    """Of the change of top-1, in points; empty for one image, and of an earlier version's results."""
    low, high = (row.get(f"top1_change_{end}") for end in ("low", "high"))
    if low is None or high is None or math.isnan(low + high):
        return ""
    return f"{100 * low:+.2f} to {100 * high:+.2f}"


def _scaled(row: dict[str, Any], key: str, when: str) -> float:
    """A measure as shown: in percent, except NLL; NaN where a file has null."""
    value = row[f"{key}_{when}"]
    return math.nan if value is None else float((1 if key == "nll" else 100) * value)


def peak_memory(device: torch.device) -> int:
    """Bytes: the allocator's peak on CUDA, elsewhere the largest resident set of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # the standard library cannot read it there
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # kilobytes everywhere but on macOS
