"""Batch and output types; splitting a batch into parts that fit the device's memory."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypedDict

import torch
from torch import Tensor

from lorattt.views.device import ViewPlan
from lorattt.views.render import Views

# The share of the free memory that a part may take, by what the parts before have taken.
_SHARE = 0.8


class EpisodeNumbers(TypedDict):
    """The images of a batch or of a step's output.

    Attributes:
        index: ``(E,)`` int64, dataset-wide.
        label: ``(E,)`` int64, -1 where unknown.
        path: E names of the images.
        skipped: Images of the batch that could not be read, each with ``index``, ``path``, ``reason``.
    """

    index: Tensor
    label: Tensor
    path: list[str]
    skipped: list[dict[str, Any]]


class EpisodeBatch(EpisodeNumbers, total=False):
    """A batch of E episodes: their views, or the images and plans to make them from.

    Attributes:
        views: ``(E, V, 3, S, S)`` uint8; view 0 is the plain one.
        image: E images ``(3, H, W)`` uint8, each of its own size, in place of views.
        plan: How their views are made.
    """

    views: Tensor
    image: list[Tensor]
    plan: ViewPlan


class Prediction(TypedDict):
    """A method's predictions for E images; tensors are detached.

    Attributes:
        before: ``(E, K)`` float32 logits of the same model and text without adaptation.
        after: ``(E, K)`` float32 logits of the method.
        fallback: ``(E,)`` bool, true where adaptation was not finite and ``after`` is ``before``.
    """

    before: Tensor
    after: Tensor
    fallback: Tensor


class EpisodeOutput(EpisodeNumbers, Prediction):
    """The output of a step, for the callbacks: the prediction and its images."""


class EpisodeSource(Protocol):
    """What a method reads from a datamodule (class names) and sets on it (how views are made or planned)."""

    class_names: list[str]
    transform: Views | None
    planner: Callable[[int, int, int], ViewPlan] | None


def batch_metadata(batch: EpisodeBatch) -> EpisodeNumbers:
    """The images of a batch, for the step's output."""
    return {"index": batch["index"], "label": batch["label"], "path": batch["path"], "skipped": batch["skipped"]}


Predictions: TypeAlias = Mapping[str, Prediction]
"""Predictions by method name; a method alone has the empty name."""


class MicroBatcher:
    """Classifies a batch in parts that fit the memory of the device.

    Episodes are independent, so parts change nothing but what is held at a time. On a CUDA device, the first part is
    one episode, and each part shows how much memory an episode takes; a part that does not fit is halved, and only
    that part is done again. On a CPU a batch is one part unless its allocator gives up.

    Attributes:
        limit: The most episodes of a part; None for the whole batch.
        halved: How often a part did not fit.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.halved = 0

    def classify(self, batch: EpisodeBatch, answers: Callable[[EpisodeBatch], Predictions]) -> Predictions:
        """Classify all episodes of a batch of at least one.

        Args:
            batch: The batch.
            answers: Classifies the episodes of a part.

        Raises:
            torch.OutOfMemoryError: If a single episode does not fit.
        """
        device, total, done = batch["index"].device, len(batch["index"]), 0
        if self.limit is None and device.type == "cuda":
            self.limit = 1
        found: list[Predictions] = []
        while done < total:
            size = min(self.limit or total, total - done)
            used = _allocated(device)
            answer = self._try(batch if size == total else part_of(batch, done, done + size), answers)
            if answer is None:
                # Here the frames of the failure are gone, and with them what they held.
                _release(device)
                self.limit = max(1, size // 2)
                self.halved += 1
                continue
            found.append(answer)
            done += size
            if device.type == "cuda" and not self.halved:
                self.limit = max(self.limit or 1, _fitting(device, used, size))
        return found[0] if len(found) == 1 else _concatenate(found)

    def _try(self, part: EpisodeBatch, answers: Callable[[EpisodeBatch], Predictions]) -> Predictions | None:
        """The predictions, or None if memory did not suffice."""
        try:
            return answers(part)
        except RuntimeError as error:  # which torch.OutOfMemoryError is
            if not no_memory(error) or len(part["index"]) == 1:
                raise
            return None


def part_of(batch: EpisodeBatch, first: int, end: int) -> EpisodeBatch:
    """The episodes of a batch from ``first`` up to ``end``, which is not one of them; without the skipped ones."""
    own = slice(first, end)
    part: EpisodeBatch = {
        "label": batch["label"][own],
        "index": batch["index"][own],
        "path": batch["path"][own],
        "skipped": [],
    }
    if "views" in batch:
        part["views"] = batch["views"][own]
    if "image" in batch:
        part["image"] = batch["image"][own]
    if "plan" in batch:
        part["plan"] = batch["plan"].part(first, end)
    return part


def _concatenate(found: list[Predictions]) -> Predictions:
    return {
        name: {
            "before": torch.cat([answers[name]["before"] for answers in found]),
            "after": torch.cat([answers[name]["after"] for answers in found]),
            "fallback": torch.cat([answers[name]["fallback"] for answers in found]),
        }
        for name in found[0]
    }


def no_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory did not suffice."""
    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _fitting(device: torch.device, used: int, size: int) -> int:
    """How many episodes fit, if each takes what it took of a part of that size.

    The peak may be an earlier one, of something else: then an episode seems to take more than it does, and larger
    parts correct that.
    """
    peak = torch.cuda.max_memory_allocated(device) - used
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - used
    return max(1, int(_SHARE * free * size / max(peak, 1)))


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
