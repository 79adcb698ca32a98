"""Memory that the main process shares with its loader workers, in pieces that are used again.

It is anonymous memory, which forked workers inherit: it needs no file system, so it does not matter how large
``/dev/shm`` is (64 MB in a container, by Docker's default). Only address space is reserved; a page becomes
memory when it is first written.
"""

import mmap
import weakref
from contextlib import suppress
from typing import Any

import numpy as np

REGION = 1 << 32
"""Bytes of address space for each worker, where there are as many."""
_LEAST = 1 << 24
_FREE, _SENT, _TAKEN = range(3)


class SharedRegions:
    """A region of memory for each worker; a batch takes a piece of its worker's region.

    The worker puts a batch into a free piece and sends the piece's number and its first byte; the main process reads
    it in place; when the batch is dropped, the piece is free again. A region can have ``pieces`` of them;
    ``under_way`` batches of each worker may be asked for and not yet taken out (``prefetch_factor``).
    """

    def __init__(self, workers: int, under_way: int, pieces: int) -> None:
        self._under_way = under_way
        # What each of a worker's pieces is: the worker marks it sent; the main process, taken and free.
        self._state = np.frombuffer(mmap.mmap(-1, workers * pieces), dtype=np.uint8).reshape(workers, pieces)
        self._sent: list[int] = []  # the worker's pieces under way, in order
        self._spans: dict[int, tuple[int, int]] = {}  # first byte and end of each of the worker's pieces
        self.regions = [region for _ in range(workers) if (region := _reserve(_wanted(workers))) is not None]
        if len(self.regions) < workers:
            self.regions = []  # none is shared

    def put(self, worker: int, arrays: list[Any]) -> tuple[int, int] | None:
        """In a worker, write arrays into a free piece: its number and first byte; None without room for the bytes."""
        size = sum(array.nbytes for array in arrays)
        if not (self.regions and size and all(array.dtype == np.uint8 for array in arrays)):
            return None
        state, region = self._state[worker], self.regions[worker]
        self._free_unread(state)
        free = np.flatnonzero(state == _FREE)
        start = self._gap(state, size, len(region))
        if not len(free) or start is None:
            return None
        piece = int(free[0])
        place = start
        for array in arrays:
            np.frombuffer(region, np.uint8, array.nbytes, place)[:] = array.reshape(-1)
            place += array.nbytes
        self._spans[piece] = (start, place)
        state[piece] = _SENT
        self._sent.append(piece)
        return piece, start

    def _free_unread(self, state: Any) -> None:
        # Asked for another batch, the worker knows that all but the last few were taken; one that still seems to be
        # under way was never read, since its epoch was left early.
        while len(self._sent) > self._under_way:
            unread = self._sent.pop(0)
            if unread not in self._sent and state[unread] == _SENT:  # not sent again since
                state[unread] = _FREE

    def _gap(self, state: Any, size: int, end: int) -> int | None:
        """The first byte of the lowest gap of that size, so that few pages ever become memory."""
        start = 0
        for first, behind in sorted(span for piece, span in self._spans.items() if state[piece] != _FREE):
            if first - start >= size:
                break
            start = behind
        return start if start + size <= end else None

    def take(self, worker: int, piece: int, start: int, size: int) -> Any:
        """In the main process, the ``(size,)`` bytes of a piece, which is not reused before they are freed."""
        self._state[worker, piece] = _TAKEN
        pixels = np.frombuffer(self.regions[worker], np.uint8, size, start)
        weakref.finalize(pixels, self._state.__setitem__, (worker, piece), _FREE).atexit = False
        return pixels


def _wanted(workers: int) -> int:
    """Bytes for a region: a small part of what the process may have in all, where that is limited (``ulimit -v``)."""
    with suppress(ImportError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            return min(REGION, limit // (8 * workers))
    return REGION


def _reserve(size: int) -> mmap.mmap | None:
    """Memory of that size, or as much of it as there is; None for too little to be of use."""
    while size >= _LEAST:
        with suppress(OSError, OverflowError):
            return mmap.mmap(-1, size)
        size //= 2
    return None
