"""``predictions.csv`` and ``predictions.jsonl``: each batch is written to a journal, and all are merged at the end."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lorattt.callbacks.base import RunObserver, methods_of, on_first_device
from lorattt.callbacks.journal import Journal, entries_at, journal_path, read_journals, remove_journals, saving
from lorattt.callbacks.merge import SKIPPED_COLUMNS, WHEN, Totals, merge
from lorattt.callbacks.run_folder import FolderLock, find_run
from lorattt.errors import UserError
from lorattt.ranking import NO_CLASS, top_k


class PredictionsWriter(RunObserver):
    """Each device appends every batch to its own journal; at the end the first one merges them, by index.

    Each method has a folder of its name with its predictions. Labels and predictions are class numbers; confidences
    are probabilities, entropies are in nats. An unknown label is empty in the CSV and null in the JSON lines, which
    list the most probable classes of each image. An answer that is not finite has no class: its prediction is empty in
    the CSV, and its list in the JSON lines. ``skipped.csv`` lists the images that could not be read.

    A resumed run leaves out the images in its journals and merges them with the rest; all devices must then see the
    folder. Comes after RunFolder in a Trainer's callbacks.

    Attributes:
        resumed: How many images earlier attempts classified; on all devices, from the setup on.
        right: Of these, how many have a label, and how many of the last method's answers are right before and after.
        classified: Over all devices, how many images this attempt classified; known when the run has ended.
        seconds: Seconds that this device spent on writing.
        totals: Counts and measures of the merged files; on the first device, when the run has ended.
    """

    def __init__(self) -> None:
        self.resumed, self.right, self.classified = 0, (0, 0, 0), 0
        self.seconds = 0.0
        self.totals = Totals()
        self._skipped, self._top_k = 0, 1
        self._methods: dict[str, Any] = {}
        self._journal: Journal | None = None
        self._lock: FolderLock | None = None
        self._merged: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lock the folder, read the journals of earlier attempts, and tell the data which images are done."""
        self.resumed, self.right = 0, (0, 0, 0)
        if stage == "fit":
            return
        run = find_run(trainer)
        done, again, right = on_first_device(trainer, lambda: self._look_back(run.path, run.resumes))
        leave_out = getattr(getattr(trainer, "datamodule", None), "leave_out", None)
        if leave_out is not None:
            leave_out(done, again)
            self.resumed, self.right = len(done), right

    def _look_back(self, folder: Path, go_on: bool) -> tuple[dict[int, str], list[int], tuple[int, int, int]]:
        """Names of the finished images by number, numbers to try again, and :attr:`right`."""
        with saving(folder, folder):
            self._lock = FolderLock(folder)
            if not go_on:
                remove_journals(folder)
        found = read_journals(folder)
        if found.done or found.bad or found.dropped:
            dropped = f", {found.dropped} damaged or unfinished lines are left out" if found.dropped else ""
            again = f", {len(found.bad)} that could not be read are tried again" if found.bad else ""
            print(f"going on in {folder}: {len(found.done)} images are done{again}{dropped}")
        known = [place.right for place in found.done.values() if place.right is not None]
        right = len(known), sum(before for before, _ in known), sum(after for _, after in known)
        return {index: place.path for index, place in found.done.items()}, sorted(found.bad), right

    def on_run_start(self, trainer: Trainer, module: Any) -> None:
        """Open this device's journal."""
        self._skipped = self.classified = 0
        self.seconds = 0.0
        self._merged = None
        run = find_run(trainer)
        self._methods, self._top_k = methods_of(module), run.top_k
        self._journal = Journal(journal_path(run.path, trainer.global_rank))

    def on_batch_end(self, outputs: Any) -> None:
        """Write a batch."""
        assert self._journal is not None
        if outputs["index"].is_cuda:  # reading the answers waits for them, which is not time spent on writing
            torch.cuda.synchronize(outputs["index"].device)
        began = time.perf_counter()
        entries = self._entries(outputs)
        skipped = [{key: bad[key] for key in SKIPPED_COLUMNS} for bad in outputs["skipped"]]
        self._journal.append(entries + skipped)
        self.classified += len(entries)
        self._skipped += len(skipped)
        self.seconds += time.perf_counter() - began

    def _entries(self, outputs: Any) -> list[dict[str, Any]]:
        label = outputs["label"].tolist()
        entries: list[dict[str, Any]] = [
            {"index": index, "path": path, "label": known if known >= 0 else None, "answers": {}}
            for index, path, known in zip(outputs["index"].tolist(), outputs["path"], label, strict=True)
        ]
        for (name, method), answer in zip(self._methods.items(), outputs["methods"].values(), strict=True):
            logits = [answer[when].detach().float().cpu() for when in WHEN]
            sides = [self._sides(each) for each in logits]
            metrics = getattr(method, "metrics", None)
            target = torch.tensor(label, dtype=torch.long)
            scores = [None] * len(entries) if metrics is None else metrics.scores(*logits, target)
            columns = zip(entries, *sides, scores, answer["fallback"].tolist(), strict=True)
            for entry, before, after, score, fallback in columns:
                entry["answers"][name] = {"before": before, "after": after, "scores": score, "fallback": fallback}
        return entries

    def _sides(self, logits: Tensor) -> list[dict[str, Any]]:
        log_p = logits.float().log_softmax(-1)
        entropies = (-(log_p.exp() * log_p).sum(-1)).tolist()  # in nats
        ranked = top_classes(logits, self._top_k)
        return [{"entropy": entropy, "top": top} for top, entropy in zip(ranked, entropies, strict=True)]

    def on_run_end(self, trainer: Trainer, module: Any) -> None:
        """Merge the journals of all devices and attempts."""
        assert self._journal is not None
        self._journal.close()
        self._journal = None
        counts = torch.tensor([self.classified, self._skipped], device=trainer.strategy.root_device)
        # A sum of integers, exact; it also waits until every device has closed its journal.
        self.classified, self._skipped = (int(n) for n in trainer.strategy.reduce(counts, reduce_op="sum"))
        names = list(getattr(module, "class_names", None) or ())
        on_first_device(trainer, lambda: self._merge(trainer, names))

    def _merge(self, trainer: Trainer, class_names: list[str]) -> None:
        folder = find_run(trainer).path
        found = read_journals(folder)
        missing = self.resumed + self.classified + self._skipped - len(found.done) - len(found.bad)
        if missing > 0:
            raise UserError(
                f"{folder}: the journals of some devices are not there ({missing} images are missing): "
                "name a run.folder on a file system that all nodes share"
            )
        if found.bad and not found.done and trainer.state.fn != TrainerFn.PREDICTING:
            (first,) = entries_at([found.bad[min(found.bad)]])
            remove_journals(folder)  # there is nothing in them to go on with
            raise UserError(
                f"none of the {len(found.bad)} images could be read (the first: {first['path']}: {first['reason']}): "
                "fix them, or name others"
            )
        self.totals = merge(folder, found, self._methods, class_names)
        self._merged = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the journals, now that all files of the run are written, and unlock the folder."""
        if self._merged is not None:
            remove_journals(self._merged)
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the journals."""
        if self._journal is not None:
            self._journal.abandon()
        self._release()

    def _release(self) -> None:
        self._journal = self._merged = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def top_classes(logits: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """The ``k`` most probable classes, or all if there are fewer, of each row of ``(E, K)`` logits.

    Returns:
        For each row, pairs of class number and probability, in the order of :func:`lorattt.ranking.top_k`; none for
        an answer that is not finite.
    """
    order = top_k(logits, k)
    shares = logits.float().log_softmax(-1).gather(-1, order.clamp(min=0)).exp()
    pairs = zip(order.tolist(), shares.tolist(), strict=True)
    return [[] if row[0] == NO_CLASS else list(zip(row, values, strict=True)) for row, values in pairs]
