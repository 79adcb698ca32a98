"""The real thing: a Trainer, a data module and the observers, as ``lorattt test`` runs them, over JPEG files."""

import contextlib
import csv
import io
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from benchmarks.throughput_setup import Settings
from benchmarks.throughput_stages import forget_peak, peak
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.results import ResultsWriter
from lorattt.callbacks.run_folder import RESULTS_FILE, RunFolder
from lorattt.data.datamodule import EpisodeData
from lorattt.data.source import ImageSource
from lorattt.methods.base import Method
from lorattt.methods.batch import MicroBatcher
from lorattt.ranking import NO_CLASS


class Pace(Callback):
    """When each batch was done: how fast a run is once workers and device are at work."""

    def __init__(self) -> None:
        self._done: list[tuple[float, int]] = []

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Lightning's hook; the writer of predictions has waited for the answers."""
        self._done.append((time.perf_counter(), len(outputs["index"])))

    @property
    def images_per_second(self) -> float | None:
        """Without the first quarter of the batches; None for fewer than four."""
        left_out = len(self._done) // 4
        if not left_out:
            return None
        kept = self._done[left_out:]
        return sum(images for _, images in kept) / (kept[-1][0] - self._done[left_out - 1][0])


def end_to_end(method: Method, source: ImageSource, settings: Settings, folder: Path) -> dict[str, Any]:
    """One run over all images of a source, without a progress bar.

    The class texts are encoded beforehand, as they are once per list of classes. Loader processes are not.

    Args:
        method: Knows its class names.
        source: The images.
        settings: What is measured.
        folder: A new folder for what the run writes.

    Returns:
        What ``results.json`` says of speed and stages, the pace of the later batches, and predictions.
    """
    device, pace = settings.device, Pace()
    method.parts = MicroBatcher()
    data = EpisodeData(
        source, batch_size=settings.batch_size, workers=settings.workers, limit=None, on_bad_image="error"
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            inference_mode=False,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=folder,
            callbacks=[RunFolder(folder=str(folder)), PredictionsWriter(), ResultsWriter(), pace],
        )
        forget_peak(device)
        trainer.test(method, datamodule=data, verbose=False)
        found = peak(device)
    method.to(device)  # the Trainer leaves it on the CPU
    (written,) = folder.glob(f"*/{RESULTS_FILE}")
    row = json.loads(written.read_text(encoding="utf-8"))
    kept = ("images_per_second", "stages", "fallbacks", "not_finite", "batches_halved")
    with (written.parent / "predictions.csv").open(newline="", encoding="utf-8") as file:
        predicted = {int(line["index"]): int(line["prediction_after"] or NO_CLASS) for line in csv.DictReader(file)}
    return {
        "images": row["n"],
        **{key: row[key] for key in kept},
        "later_images_per_second": pace.images_per_second,
        "peak_memory_bytes": found,
        "predictions": predicted,
    }


def encode_texts(method: Method, names: list[str], device: torch.device) -> float:
    """Seconds that the class texts take, once per list of classes; the method knows its classes afterwards."""
    started = time.perf_counter()
    method.use_classes(names)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
