"""Images from loader processes, handed over in memory that is used again.

A batch of decoded images is megabytes. Fresh shared memory for each costs a page fault every 4 kB, which can
take as long as a third of the decoding; a worker that writes into the same few slots again pays that once.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from lorattt.data.source import collate_episodes

_GROWTH = 1.25


class SlotCollate:
    """:func:`collate_episodes` for a worker, with the images of a batch side by side in one of its slots.

    Args:
        slots: How many slots a worker has. It writes a batch while the main process may still read the
            ``prefetch_factor`` batches before it, so one more than that.
    """

    def __init__(self, slots: int) -> None:
        self._slots = [torch.empty(0, dtype=torch.uint8) for _ in range(slots)]
        self._turn = 0

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items of an :class:`EpisodeDataset` to a batch; in a worker, ``image`` becomes ``slot`` and ``sizes``."""
        batch = collate_episodes(items)
        if "image" not in batch or get_worker_info() is None:
            return batch
        images: list[Tensor] = batch.pop("image")
        slot = self._slot(sum(image.numel() for image in images))
        sizes = [tuple(image.shape[1:]) for image in images]
        for place, image in zip(_places(slot, sizes), images, strict=True):
            place.copy_(image.permute(1, 2, 0))
        return {**batch, "slot": slot, "sizes": sizes}

    def _slot(self, size: int) -> Tensor:
        """The slot whose turn it is, made larger if need be: then it is other memory, and nobody's view of it breaks."""
        self._turn = (self._turn + 1) % len(self._slots)
        if self._slots[self._turn].numel() < size:
            self._slots[self._turn] = torch.empty(int(size * _GROWTH), dtype=torch.uint8).share_memory_()
        return self._slots[self._turn]


def _places(slot: Tensor, sizes: list[tuple[int, ...]]) -> Iterator[Tensor]:
    """Views ``(H, W, 3)`` of the slot, one after another."""
    start = 0
    for size in sizes:
        count = 3 * math.prod(size)
        yield slot[start : start + count].view(*size, 3)
        start += count


class EpisodeLoader(DataLoader[dict[str, Any]]):
    """A DataLoader for :class:`SlotCollate`: copies a batch out of its slot before it lets the next one be made."""

    def __iter__(self) -> Any:
        """Batches as :func:`collate_episodes` makes them."""
        for batch in super().__iter__():
            yield _taken_out(batch)


def _taken_out(batch: dict[str, Any]) -> dict[str, Any]:
    if "slot" not in batch:
        return batch
    slot: Tensor = batch.pop("slot")
    sizes: list[tuple[int, ...]] = batch.pop("sizes")
    # A pinned slot is a copy already, made by the DataLoader's own thread.
    own = slot if slot.is_pinned() else slot[: 3 * sum(map(math.prod, sizes))].clone()
    return {**batch, "image": [place.permute(2, 0, 1) for place in _places(own, sizes)]}
