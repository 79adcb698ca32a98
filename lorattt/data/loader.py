"""Images from loader processes, handed over in memory that is used again.

A batch of decoded images is megabytes. Sent as DataLoader sends tensors, each batch is fresh shared memory: a page
fault every 4 kB, a file descriptor to pass on and a mapping to make, together up to a third of the time of decoding.
Here the main process makes a few slots for each worker before it starts the workers, which inherit them; then only
the slot's number is sent.
"""

import math
import mmap
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from lorattt.data.source import collate_episodes

# Room for a megapixel an image on average; a batch that needs more is sent the plain way. Not memory until written.
_BYTES_PER_IMAGE = 3_000_000
_NUMBERS = ("label", "index")


class SlotCollate:
    """:func:`collate_episodes` that leaves images in a slot, where it runs in a worker that has slots.

    Workers have them if they are forked. A copy made by pickling has none: it makes plain batches.

    Args:
        workers: How many workers share it.
        slots: How many slots each has.
        images: How many images a batch has.
    """

    def __init__(self, workers: int, slots: int, images: int) -> None:
        self._turn = 0
        try:
            self.slots = [[_shared(images * _BYTES_PER_IMAGE) for _ in range(slots)] for _ in range(workers)]
        except OSError:  # no such memory: do without
            self.slots = []

    def __getstate__(self) -> dict[str, Any]:
        """Without slots, which only a fork inherits."""
        return {"_turn": 0, "slots": []}

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items of an :class:`EpisodeDataset` to a batch; with slots, ``image`` becomes ``slot`` and ``sizes``."""
        batch, worker = collate_episodes(items), get_worker_info()
        if "image" not in batch or worker is None or not self.slots:
            return batch
        images: list[Tensor] = batch["image"]
        own = self.slots[worker.id]
        turn = self._turn = (self._turn + 1) % len(own)
        if sum(image.numel() for image in images) > own[turn].numel():
            return batch
        sizes = [tuple(image.shape[1:]) for image in images]
        for place, image in zip(_places(own[turn], sizes), images, strict=True):
            place.copy_(image.permute(1, 2, 0))
        del batch["image"]
        # Arrays travel by value; a tensor, however small, would be shared memory with all that it costs.
        numbers = {key: batch[key].numpy() for key in _NUMBERS}
        return {**batch, **numbers, "slot": (worker.id, turn), "sizes": sizes}

    def taken_out(self, batch: dict[str, Any]) -> dict[str, Any]:
        """In the main process, a batch with its images copied out of their slot."""
        if "slot" not in batch:
            return batch
        worker, turn = batch.pop("slot")
        sizes: list[tuple[int, ...]] = batch.pop("sizes")
        copy = _copied(self.slots[worker][turn][: 3 * sum(map(math.prod, sizes))])
        numbers = {key: torch.from_numpy(batch[key]) for key in _NUMBERS}
        return {**batch, **numbers, "image": [place.permute(2, 0, 1) for place in _places(copy, sizes)]}


def _shared(size: int) -> Tensor:
    """Zeros that forked processes share, ``(size,)`` uint8."""
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)


def _copied(used: Tensor) -> Tensor:
    # By numpy, on one thread: torch would take several, and workers wait for the cores they spin on.
    return torch.from_numpy(used.numpy().copy())


def _places(slot: Tensor, sizes: list[tuple[int, ...]]) -> Iterator[Tensor]:
    """Views ``(H, W, 3)`` of the slot, one after another."""
    start = 0
    for size in sizes:
        count = 3 * math.prod(size)
        yield slot[start : start + count].view(*size, 3)
        start += count


class EpisodeLoader(DataLoader[dict[str, Any]]):
    """A DataLoader of episodes; images cross from its workers in slots."""

    def __iter__(self) -> Any:
        """Batches as :func:`collate_episodes` makes them."""
        if self.num_workers == 0:
            self.collate_fn = collate_episodes
            yield from super().__iter__()
            return
        if not (self.persistent_workers and isinstance(self.collate_fn, SlotCollate)):
            # New workers get new slots: those of an earlier, unfinished iteration may still be written to. A worker
            # has prefetch_factor batches under way beside the one that is being copied out.
            self.collate_fn = SlotCollate(self.num_workers, (self.prefetch_factor or 1) + 1, self.batch_size or 1)
        collate: SlotCollate = self.collate_fn
        for batch in super().__iter__():
            # Before the next one is asked for, and so before the slot's turn comes again.
            yield collate.taken_out(batch)
