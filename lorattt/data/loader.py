"""Images from loader processes, handed over in memory that is used again.

A batch of decoded images is megabytes. Sent as DataLoader sends tensors, each batch is fresh shared memory: a page
fault every 4 kB, a file descriptor to pass on and a mapping to make, together up to a third of the time of decoding.
Here the main process makes a few slots for each worker before it starts the workers, which inherit them; then only
the slot's number is sent. A worker decodes into a slot, the main process reads it in place, and when the batch is
dropped the slot is free again: one copy, from Pillow's memory, as a loop in one process would make.
"""

import math
import mmap
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from lorattt.data.ahead import SendAhead
from lorattt.data.source import collate_episodes

# Room for a megapixel an image on average; a batch that needs more is sent the plain way. Not memory until written.
_BYTES_PER_IMAGE = 3_000_000
# Beside those under way: the batch in use, one that a Trainer fetches ahead, and the one being handed over.
_SPARE_SLOTS = 3
_NUMBERS = ("label", "index")
_FREE, _SENT, _TAKEN = range(3)


class SlotCollate:
    """:func:`collate_episodes` that leaves images in a slot, where it runs in a worker that has a free one.

    Workers have slots if they are forked. A copy made by pickling has none: it makes plain batches.

    Args:
        workers: How many workers share it.
        under_way: How many batches of each may be asked for and not yet taken out (``prefetch_factor``).
        images: How many images a batch has.
    """

    def __init__(self, workers: int, under_way: int, images: int) -> None:
        slots = under_way + _SPARE_SLOTS
        self._under_way = under_way
        # What each of a worker's slots is: the worker marks it sent; the main process, taken and free.
        self._state = np.frombuffer(mmap.mmap(-1, workers * slots), dtype=np.uint8).reshape(workers, slots)
        self._sent: list[int] = []  # the worker's slots under way, in order
        try:
            self.slots = [[mmap.mmap(-1, images * _BYTES_PER_IMAGE) for _ in range(slots)] for _ in range(workers)]
        except OSError:  # no such memory: do without
            self.slots = []

    def __getstate__(self) -> dict[str, Any]:
        """Without slots, which only a fork inherits."""
        return {"slots": []}

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items of an :class:`EpisodeDataset` to a batch; with a slot, ``image`` becomes ``slot`` and ``sizes``."""
        images = [item["image"] for item in items if "image" in item]
        worker = get_worker_info()
        if not images or worker is None or not self.slots:
            return collate_episodes(items)
        own = self.slots[worker.id]
        free = self._free_slot(self._state[worker.id])
        if free is None or sum(image.nbytes for image in images) > len(own[free]):
            return collate_episodes(items)
        sizes = [image.shape[:2] for image in images]
        for place, image in zip(_places(np.frombuffer(own[free], dtype=np.uint8), sizes), images, strict=True):
            place[:] = image
        self._state[worker.id, free] = _SENT
        self._sent.append(free)
        batch = collate_episodes([{**item, "image": _NO_PIXELS} if "image" in item else item for item in items])
        del batch["image"]
        # Arrays travel by value; a tensor, however small, would be shared memory with all that it costs.
        numbers = {key: batch[key].numpy() for key in _NUMBERS}
        return {**batch, **numbers, "slot": (worker.id, free), "sizes": sizes}

    def _free_slot(self, state: Any) -> int | None:
        # Asked for another batch, the worker knows that all but the last few were taken; one that still seems to be
        # under way was thrown away, since its epoch was left early.
        while len(self._sent) > self._under_way:
            thrown = self._sent.pop(0)
            if thrown not in self._sent and state[thrown] == _SENT:  # not sent again since
                state[thrown] = _FREE
        # The lowest, so that few of them ever become memory.
        return next((slot for slot, value in enumerate(state) if value == _FREE), None)

    def taken_out(self, batch: dict[str, Any]) -> dict[str, Any]:
        """In the main process, a batch with its images where they lie; their slot is theirs until they are gone."""
        if "slot" not in batch:
            return batch
        worker, slot = batch.pop("slot")
        sizes: list[tuple[int, ...]] = batch.pop("sizes")
        self._state[worker, slot] = _TAKEN
        pixels = np.frombuffer(self.slots[worker][slot], dtype=np.uint8)
        memory = torch.from_numpy(pixels)  # all tensors of the batch share its storage, which keeps ``pixels``
        weakref.finalize(pixels, self._state.__setitem__, (worker, slot), _FREE).atexit = False
        numbers = {key: torch.from_numpy(batch[key]) for key in _NUMBERS}
        return {**batch, **numbers, "image": [place.permute(2, 0, 1) for place in _places(memory, sizes)]}


_NO_PIXELS = np.empty((0, 0, 3), dtype=np.uint8)


def _places(memory: Any, sizes: list[tuple[int, ...]]) -> Iterator[Any]:
    """Views ``(H, W, 3)`` of an array or tensor ``(bytes,)``, one after another."""
    start = 0
    for size in sizes:
        count = 3 * math.prod(size)
        yield memory[start : start + count].reshape(*size, 3)
        start += count


class EpisodeLoader(DataLoader[dict[str, Any]]):
    """A DataLoader of episodes; images cross from its workers in slots.

    A loader without anything to load gives one batch without episodes: Lightning would leave out the whole loop of a
    device without batches, and the other devices would wait for it at the end.

    Attributes:
        send_to: A device to which pixels are sent ahead; None leaves that to who uses the batches.
    """

    send_to: torch.device | None = None

    def __len__(self) -> int:
        """Number of batches, at least 1."""
        return max(1, super().__len__())

    def __iter__(self) -> Any:
        """Batches as :func:`collate_episodes` makes them."""
        batches = self._batches()
        return batches if self.send_to is None else SendAhead(self.send_to)(batches)

    def _batches(self) -> Iterator[dict[str, Any]]:
        if super().__len__() == 0:
            yield collate_episodes([])
            return
        if self.num_workers == 0:
            self.collate_fn = collate_episodes
            yield from super().__iter__()
            return
        if not (self.persistent_workers and isinstance(self.collate_fn, SlotCollate)):
            # New workers get new slots: those of an earlier, unfinished iteration may still be written to.
            self.collate_fn = SlotCollate(self.num_workers, self.prefetch_factor or 1, self.batch_size or 1)
        collate: SlotCollate = self.collate_fn
        for batch in super().__iter__():
            yield collate.taken_out(batch)
