"""``predictions.csv``: one row per image, written as they are made, merged over devices at the end."""

import csv
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.run_folder import find_run_folder

COLUMNS = (
    "index",
    "path",
    "label",
    "prediction_before",
    "prediction_after",
    "confidence_before",
    "confidence_after",
    "entropy_before",
    "entropy_after",
)


class PredictionsWriter(RunObserver):
    """Each device appends to a file of its own and flushes every batch; the first one merges, by index.

    Labels and predictions are class numbers; confidences are probabilities, entropies are in nats. A
    label that is not known is empty. ``skipped.csv`` lists the images that could not be read.

    Attributes:
        fallbacks: Over all devices, how often adaptation was not finite; known when the run has ended.
        skipped: Over all devices, how many images could not be read.
        rows: Over all devices, how many predictions were written.
    """

    def __init__(self) -> None:
        self.fallbacks = self.skipped = self.rows = 0
        self._files: list[TextIO] = []

    def started(self, trainer: Trainer, module: Any) -> None:
        """Open this device's files."""
        self.fallbacks = self.skipped = self.rows = 0
        folder = find_run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        names = (_part(folder, name, trainer.global_rank) for name in ("predictions", "skipped"))
        self._files = [name.open("w", newline="", encoding="utf-8") for name in names]
        csv.writer(self._files[0]).writerow(COLUMNS)
        csv.writer(self._files[1]).writerow(("index", "path", "reason"))

    def took(self, outputs: Any) -> None:
        """Write a batch."""
        before, after = summary(outputs["before"]), summary(outputs["after"])
        index, label = outputs["index"].tolist(), outputs["label"].tolist()
        rows = csv.writer(self._files[0])
        for i, path in enumerate(outputs["path"]):
            pairs = [f"{x[i]:.6f}" for part in (1, 2) for x in (before[part], after[part])]
            known = label[i] if label[i] >= 0 else ""
            rows.writerow((index[i], path, known, before[0][i], after[0][i], *pairs))
        csv.writer(self._files[1]).writerows((bad["index"], bad["path"], bad["reason"]) for bad in outputs["skipped"])
        for file in self._files:
            file.flush()
        self.fallbacks += int(outputs["fallback"].sum())
        self.skipped += len(outputs["skipped"])
        self.rows += len(index)

    def ended(self, trainer: Trainer, module: Any) -> None:
        """Add up the counts of all devices and merge their files."""
        self._close()
        counts = torch.tensor([self.fallbacks, self.skipped, self.rows], device=trainer.strategy.root_device)
        # A sum of integers, exact; it also waits until every device has closed its files.
        totals = trainer.strategy.reduce(counts, reduce_op="sum")
        self.fallbacks, self.skipped, self.rows = (int(n) for n in totals)
        if trainer.is_global_zero:
            folder = find_run_folder(trainer)
            for name in ("predictions", "skipped"):
                _merge(folder, name, trainer.world_size)
            if not self.skipped:
                (folder / "skipped.csv").unlink()

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave what was written where it is."""
        self._close()


def summary(logits: Tensor) -> tuple[list[int], list[float], list[float]]:
    """Predicted class, its probability, and the entropy in nats, of each row of ``(E, K)`` logits."""
    log_p = logits.float().log_softmax(-1)
    top = log_p.max(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return top.indices.tolist(), top.values.exp().tolist(), entropy.tolist()


def _part(folder: Path, name: str, rank: int) -> Path:
    return folder / f"{name}.rank{rank}.csv"


def _merge(folder: Path, name: str, world: int) -> None:
    parts = [_part(folder, name, rank) for rank in range(world)]
    header: list[str] = []
    rows: list[list[str]] = []
    for part in parts:
        with part.open(newline="", encoding="utf-8") as file:
            header, *some = csv.reader(file)
        rows += some
    rows.sort(key=lambda row: int(row[0]))
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    for part in parts:
        part.unlink()
