"""Batch and output types; splitting a batch into parts that fit the device's memory."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypedDict, cast

import torch
from torch import Tensor

from lorattt.views.device import ViewPlan

# The share of the free memory that a part may take, by what the parts before have taken.
_SHARE = 0.8


class EpisodeNumbers(TypedDict):
    """The images of a batch or of a step's output."""

    index: Tensor  # (E,) int64, dataset-wide
    label: Tensor  # (E,) int64, -1 where unknown
    path: list[str]  # E names of the images
    skipped: list[dict[str, Any]]  # images that could not be read, each with index, path, reason


class EpisodeBatch(EpisodeNumbers, total=False):
    """A batch of E episodes: their views, or the images and plans to make them from."""

    views: Tensor  # (E, V, 3, S, S) uint8; view 0 is the plain one
    image: list[Tensor]  # E images (3, H, W) uint8, each of its own size, in place of views
    plan: ViewPlan  # how their views are made


class Prediction(TypedDict):
    """A method's predictions for E images; tensors are detached."""

    before: Tensor  # (E, K) float32 logits of the same model and text without adaptation
    after: Tensor  # (E, K) float32 logits of the method
    fallback: Tensor  # (E,) bool, true where adaptation was not finite and after is before


Predictions: TypeAlias = Mapping[str, Prediction]
"""Predictions by method name; a method alone has the empty name."""


class EpisodeOutput(EpisodeNumbers, Prediction):
    """The output of a step, for the callbacks: the images, the first method's prediction, and those of all methods."""

    methods: Predictions


class MicroBatcher:
    """Classifies a batch in parts that fit the memory of the device.

    Episodes are independent, so parts change nothing but what is held at a time. On a CUDA device, the first part is
    one episode, and each part shows how much memory an episode takes; a part that does not fit is halved, and only
    that part is done again. On a CPU a batch is one part unless its allocator gives up.
    """

    def __init__(self) -> None:
        self.limit: int | None = None  # the most episodes of a part; None for the whole batch
        self.halved = 0  # how often a part did not fit

    def classify(self, batch: EpisodeBatch, predict: Callable[[EpisodeBatch], Predictions]) -> Predictions:
        """Classify all episodes of a batch of at least one; out of memory, it fails only for a single episode."""
        device, total, done = batch["index"].device, len(batch["index"]), 0
        if self.limit is None and device.type == "cuda":
            self.limit = 1
        found: list[Predictions] = []
        while done < total:
            size = min(self.limit or total, total - done)
            used = _allocated(device)
            try:
                found.append(predict(batch if size == total else part_of(batch, done, done + size)))
            except RuntimeError as error:
                if size == 1 or not no_memory(error):
                    raise
                self.limit = max(1, size // 2)
            else:
                done += size
                if device.type == "cuda" and not self.halved:
                    self.limit = max(self.limit or 1, _fitting(device, used, size))
                continue
            # Here the frames of the failure are gone, and with them what they held.
            self.halved += 1
            if device.type == "cuda":
                torch.cuda.empty_cache()
        return found[0] if len(found) == 1 else _concatenate(found)


def part_of(batch: EpisodeBatch, first: int, end: int) -> EpisodeBatch:
    """The episodes of a batch from ``first`` up to ``end``, which is not one of them; without the skipped ones."""
    part: Any = {key: batch[key][first:end] for key in ("label", "index", "path", "views", "image") if key in batch}
    if "plan" in batch:
        part["plan"] = batch["plan"].part(first, end)
    return cast(EpisodeBatch, part | {"skipped": []})


def _concatenate(found: list[Predictions]) -> Predictions:
    def joined(name: str) -> Any:
        return {key: torch.cat([each[name][key] for each in found]) for key in ("before", "after", "fallback")}

    return {name: joined(name) for name in found[0]}


def no_memory(error: RuntimeError) -> bool:
    """Whether an error means that a device's memory did not suffice."""
    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _fitting(device: torch.device, used: int, size: int) -> int:
    """How many episodes fit, if each takes what it took of a part of that size.

    The peak may be an earlier one, of something else: then an episode seems to take more, and larger parts correct it.
    """
    peak = torch.cuda.max_memory_allocated(device) - used
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - used
    return max(1, int(_SHARE * free * size / max(peak, 1)))


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
