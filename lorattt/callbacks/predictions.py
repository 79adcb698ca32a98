"""``predictions.csv`` and ``predictions.jsonl``: an entry per image, written as they are made, merged at the end."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lorattt.callbacks.base import RunObserver, answers_of, members_of
from lorattt.callbacks.run_folder import find_run_folder, find_top_k

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
    "name_before",
    "name_after",
)
SKIPPED_COLUMNS = ("index", "path", "reason")
_FILES = ("predictions.csv", "predictions.jsonl")
_SKIPPED = "skipped.csv"


class PredictionsWriter(RunObserver):
    """Each device appends to files of its own and flushes every batch; the first one merges, by index.

    Labels and predictions are class numbers, names their class names; confidences are probabilities,
    entropies are in nats. A label that is not known is empty in the CSV and null in the JSON lines, which
    list the most probable classes of each image. ``skipped.csv`` lists the images that could not be read.
    Of several methods, each has a folder of its own name with its predictions.

    Attributes:
        fallbacks: Over all devices, how often adaptation was not finite, by the names of the methods (the empty
            one for a method alone); known when the run has ended.
        skipped: Over all devices, how many images could not be read.
        rows: Over all devices, how many images were classified.
    """

    def __init__(self) -> None:
        self.fallbacks: dict[str, int] = {}
        self.skipped = self.rows = 0
        self._predictions: dict[str, _Predictions] = {}
        self._skipped: TextIO | None = None

    def started(self, trainer: Trainer, module: Any) -> None:
        """Open this device's files."""
        self.skipped = self.rows = 0
        names, top_k = list(getattr(module, "class_names", None) or ()), find_top_k(trainer)
        folder = find_run_folder(trainer)
        self.fallbacks = dict.fromkeys(members_of(module), 0)
        self._predictions = {
            name: _Predictions(folder / name, trainer.global_rank, names, top_k) for name in self.fallbacks
        }
        self._skipped = _open(_part(folder, _SKIPPED, trainer.global_rank))
        csv.writer(self._skipped).writerow(SKIPPED_COLUMNS)

    def took(self, outputs: Any) -> None:
        """Write a batch."""
        assert self._skipped is not None
        for name, answer in answers_of(outputs).items():
            self._predictions[name].write(outputs, answer)
            self.fallbacks[name] += int(answer["fallback"].sum())
        csv.writer(self._skipped).writerows([bad[key] for key in SKIPPED_COLUMNS] for bad in outputs["skipped"])
        self._skipped.flush()
        self.skipped += len(outputs["skipped"])
        self.rows += len(outputs["index"])

    def ended(self, trainer: Trainer, module: Any) -> None:
        """Add up the counts of all devices and merge their files."""
        self._close()
        counts = [self.skipped, self.rows, *self.fallbacks.values()]
        # A sum of integers, exact; it also waits until every device has closed its files.
        sums = trainer.strategy.reduce(torch.tensor(counts, device=trainer.strategy.root_device), reduce_op="sum")
        self.skipped, self.rows, *fallbacks = (int(n) for n in sums)
        self.fallbacks = dict(zip(self.fallbacks, fallbacks, strict=True))
        if trainer.is_global_zero:
            folder, world = find_run_folder(trainer), trainer.world_size
            for name in self.fallbacks:
                _merge(folder / name, _FILES[0], world, _merge_tables)
                _merge(folder / name, _FILES[1], world, _merge_lines)
            _merge(folder, _SKIPPED, world, _merge_tables)
            if not self.skipped:
                (folder / _SKIPPED).unlink()

    def _close(self) -> None:
        for predictions in self._predictions.values():
            predictions.close()
        if self._skipped is not None:
            self._skipped.close()
        self._predictions, self._skipped = {}, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave what was written where it is."""
        self._close()


class _Predictions:
    """One method's predictions on one device."""

    def __init__(self, folder: Path, rank: int, names: list[str], top_k: int) -> None:
        self._names, self._top_k = names, top_k
        folder.mkdir(parents=True, exist_ok=True)
        self._table, self._lines = (_open(_part(folder, name, rank)) for name in _FILES)
        csv.writer(self._table).writerow(COLUMNS)

    def write(self, outputs: Any, answer: Any) -> None:
        """Write a batch: which images, from the step's output, and what the method says to them."""
        before, after = summary(answer["before"]), summary(answer["after"])
        index, label = outputs["index"].tolist(), outputs["label"].tolist()
        rows = csv.writer(self._table)
        for i, path in enumerate(outputs["path"]):
            pairs = [f"{x[i]:.6f}" for part in (1, 2) for x in (before[part], after[part])]
            known = label[i] if label[i] >= 0 else ""
            names = [self._name(x[0][i]) for x in (before, after)]
            rows.writerow((index[i], path, known, before[0][i], after[0][i], *pairs, *names))
        entries = self._entries(outputs, answer)
        self._lines.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        self._table.flush()
        self._lines.flush()

    def close(self) -> None:
        """Close the files."""
        self._table.close()
        self._lines.close()

    def _entries(self, outputs: Any, answer: Any) -> list[dict[str, Any]]:
        before, after = (top_classes(answer[when], self._top_k) for when in ("before", "after"))
        columns = (outputs["index"].tolist(), outputs["path"], outputs["label"].tolist(), answer["fallback"].tolist())
        return [
            {
                "index": index,
                "path": path,
                "label": label if label >= 0 else None,
                "before": [self._ranked(*pair) for pair in before[i]],
                "after": [self._ranked(*pair) for pair in after[i]],
                "fallback": fallback,
            }
            for i, (index, path, label, fallback) in enumerate(zip(*columns, strict=True))
        ]

    def _ranked(self, label: int, probability: float) -> dict[str, Any]:
        # JSON has no NaN: a model that overflowed leaves null.
        shown = round(probability, 6) if math.isfinite(probability) else None
        return {"class": self._name(label), "label": label, "probability": shown}

    def _name(self, label: int) -> str:
        return self._names[label] if label < len(self._names) else ""


def summary(logits: Tensor) -> tuple[list[int], list[float], list[float]]:
    """Predicted class, its probability, and the entropy in nats, of each row of ``(E, K)`` logits."""
    log_p = logits.float().log_softmax(-1)
    top = log_p.max(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return top.indices.tolist(), top.values.exp().tolist(), entropy.tolist()


def top_classes(logits: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """The ``k`` most probable classes, or all if there are fewer, of each row of ``(E, K)`` logits.

    Returns:
        For each row, pairs of class number and probability, most probable first; of equally probable ones
        the smaller number, which is the one that :func:`summary` predicts, comes first.
    """
    ranked = logits.float().log_softmax(-1).sort(dim=-1, descending=True, stable=True)
    numbers, values = ranked.indices[:, :k].tolist(), ranked.values[:, :k].exp().tolist()
    return [list(zip(*row, strict=True)) for row in zip(numbers, values, strict=True)]


def _open(path: Path) -> TextIO:
    # A file's name need not be text in UTF-8: what is not is written as an escape.
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _part(folder: Path, name: str, rank: int) -> Path:
    stem, _, ending = name.rpartition(".")
    return folder / f"{stem}.rank{rank}.{ending}"


def _merge(folder: Path, name: str, world: int, merge: Callable[[list[Path], TextIO], None]) -> None:
    parts = [_part(folder, name, rank) for rank in range(world)]
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        merge(parts, file)
    for part in parts:
        part.unlink()


def _merge_tables(parts: list[Path], target: TextIO) -> None:
    header: list[str] = []
    rows: list[list[str]] = []
    for part in parts:
        with part.open(newline="", encoding="utf-8") as file:
            header, *some = csv.reader(file)
        rows += some
    csv.writer(target).writerows([header, *sorted(rows, key=lambda row: int(row[0]))])


def _merge_lines(parts: list[Path], target: TextIO) -> None:
    lines: list[str] = []
    for part in parts:
        with part.open(newline="", encoding="utf-8") as file:
            lines += file
    target.writelines(sorted(lines, key=lambda line: int(json.loads(line)["index"])))
