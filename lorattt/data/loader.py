"""A DataLoader that does not need ``/dev/shm`` and does not wait for ever for a lost worker.

A batch of decoded images or views has megabytes. DataLoader sends tensors through files in ``/dev/shm``, which costs a
mapping for each batch and a page fault every 4 kB, and hangs if there is no room. Here workers put the pixels of a
batch into memory that they inherited (``shared``) and send only its position. What does not fit, or comes from workers
that inherit nothing, is sent by value through a pipe. :class:`DevicePrefetcher` copies pixels to a GPU ahead of time.
"""

import errno
import math
import multiprocessing
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from lorattt.data.shared import SharedRegions
from lorattt.data.source import collate_episodes, flat, pack, unpack
from lorattt.errors import UserError

Batch: TypeAlias = dict[str, Any]
Arrival: TypeAlias = torch.cuda.Event | None

# Besides those under way: the batch in use, one that a Trainer prefetches, and the one being handed over.
_SPARE_PIECES = 3
_NO_ROOM = (errno.ENOSPC, errno.ENOSYS, errno.ENOENT, errno.EACCES, errno.EROFS)  # in /dev/shm, or no such place
_FROM_OUTSIDE = ("Terminated", "Hangup", "Interrupt")
# A batch of many views may take minutes; workers without one for so long hang.
_LOOK_SECONDS = 5
PATIENCE_SECONDS = 1800


class LostWorkerError(UserError):
    """A worker has died or hangs through no mistake of the user: the run can be resumed."""

    resumable = True


def hand_over(memory: SharedRegions | None, items: list[Batch]) -> Batch:
    """In a worker, items of an :class:`EpisodeDataset` to a message: no tensors, which DataLoader would send in files.

    Pixels are in the memory if there is some and they fit, else in the message.
    """
    message, arrays = pack(items)
    worker: Any = get_worker_info()
    place = None if memory is None else memory.put(worker.id, arrays)
    return {**message, "pixels": flat(arrays)} if place is None else {**message, "place": (worker.id, *place)}


def take_out(memory: SharedRegions | None, message: Batch) -> Batch:
    """In the main process, the batch of a message; pixels in shared memory are not copied."""
    if memory is None or "place" not in message:
        return unpack(message, message.pop("pixels"))
    worker, piece, start = message.pop("place")
    size = sum(math.prod(shape) for shape in message["shapes"])
    return unpack(message, memory.take(worker, piece, start, size))


class EpisodeLoader(DataLoader[Batch]):
    """A DataLoader of episodes that does not need ``/dev/shm`` and ends when its workers are lost.

    Without images it gives one empty batch: Lightning would skip the whole loop of a device without batches, and the
    other devices would wait for it at the end.
    """

    send_to: torch.device | None = None
    """Device to which pixels are prefetched; None leaves pixels on the CPU."""
    _memory: SharedRegions | None = None

    def __len__(self) -> int:
        return max(1, super().__len__())

    def __iter__(self) -> Any:
        """Batches as :func:`collate_episodes` makes them; :class:`LostWorkerError` if a worker has died or hangs."""
        batches = self._batches()
        return batches if self.send_to is None else DevicePrefetcher(self.send_to)(batches)

    def _batches(self) -> Iterator[Batch]:
        if super().__len__() == 0:
            yield collate_episodes([])
            return
        if self.num_workers == 0:
            self.collate_fn = collate_episodes
            yield from super().__iter__()
            return
        if not (self.persistent_workers and self._memory):
            # New workers get new memory: that of an earlier, unfinished iteration may still be written to.
            ahead = self.prefetch_factor or 1
            self._memory = SharedRegions(self.num_workers, ahead, ahead + _SPARE_PIECES) if self._forks() else None
            self.collate_fn = partial(hand_over, self._memory)
        memory, self.timeout = self._memory, _LOOK_SECONDS
        if not (isinstance(self.worker_init_fn, partial) and self.worker_init_fn.func is _begin_worker):
            self.worker_init_fn = partial(_begin_worker, self.worker_init_fn)
        try:
            (self.multiprocessing_context or multiprocessing).Lock()  # DataLoader cleans up badly where even one fails
            messages = super().__iter__()
        except OSError as error:
            raise UserError(_not_started(self.num_workers, error)) from error
        while (message := _next(messages)) is not None:
            yield take_out(memory, message)

    def _forks(self) -> bool:
        """Whether the workers will be forked: on Linux they are, even if Python's default there is another."""
        unset = self.multiprocessing_context is None and multiprocessing.get_start_method(allow_none=True) is None
        if unset and sys.platform == "linux":
            self.multiprocessing_context = "fork"
        return bool((self.multiprocessing_context or multiprocessing).get_start_method() == "fork")


def _next(messages: Iterator[Batch]) -> Batch | None:
    """The next message, or None at the end. DataLoader looks at its workers each time that it has waited."""
    for _ in range(PATIENCE_SECONDS // _LOOK_SECONDS):
        try:
            return next(messages, None)
        except RuntimeError as error:
            if (lost := lost_worker(error, getattr(messages, "_workers", []))) is not None:
                raise LostWorkerError(lost) from error
            if not str(error).startswith("DataLoader timed out"):
                raise
    raise LostWorkerError(
        f"the processes that read images (data.workers) have given no batch for {PATIENCE_SECONDS // 60} minutes: look "
        "whether the disk of the images answers, or set data.workers 0"
    )


def lost_worker(error: BaseException, workers: list[BaseProcess] | None = None) -> str | None:
    """The message for DataLoader's exception that a worker has died; None for any other exception.

    The signal is the one that the exception's text names, else that of an exit code of the ``workers``.
    """
    if not str(error).startswith("DataLoader worker"):
        return None
    who = "a process that reads images (data.workers)"
    named = re.search(r"killed by signal: ([^.]+)", str(error))
    codes = [worker.exitcode or 0 for worker in workers or ()]
    how = named[1] if named else next((signal.strsignal(-code) for code in codes if code < 0), None)
    if how in _FROM_OUTSIDE:
        return f"{who} was ended from outside ({how})"
    ended = f"was killed ({how})" if how else "has ended"
    return f"{who} {ended}, as when memory runs out: use fewer data.workers or a smaller data.batch_size"


def _begin_worker(also: Callable[[int], None] | None, worker: int) -> None:
    """In a worker, ignore signals to all processes of the run: the main process handles them and ends its workers."""
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if also is not None:
        also(worker)


def _not_started(workers: int, error: OSError) -> str:
    """Why workers could not start. Each needs a few semaphores, which are small files in ``/dev/shm``."""
    room = ""
    if error.errno in _NO_ROOM and sys.platform == "linux":
        room = "make room in /dev/shm (in a container: --shm-size=1g or --ipc=host), or "
    return (
        f"the {workers} processes that read images (data.workers) cannot be started ({error.strerror or error}): "
        f"{room}set data.workers to fewer, or 0"
    )


class DevicePrefetcher:
    """Fetches each batch and copies its pixels to the device during the work on the batch before.

    A thread waits for the loader and gathers the pixels of a batch in pinned memory; one copy in a stream of its own
    takes them to the device. PyTorch's allocator reuses pinned memory once its copy is done, so two buffers alternate.
    Small things, such as labels and plans of views, are left to the caller.

    On a CPU, as in tests, the thread does the same without pinned memory and streams.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches in their order, ``image`` or ``views`` on the device.

        An error in fetching a batch is raised at its turn, after the batches before it.
        """
        source = iter(batches)
        sent = self._fetch(source)  # not in the thread: the loader starts its processes now
        with ThreadPoolExecutor(1, "prefetch") as thread:
            while sent is not None:
                following = thread.submit(self._fetch, source)
                yield self._arrived(*sent)
                sent = None  # its memory is free before another batch needs some
                sent = following.result()

    def _fetch(self, source: Iterator[Batch]) -> tuple[Batch, Arrival] | None:
        if (batch := next(source, None)) is None:
            return None
        batch = dict(batch)
        if "plan" in batch and self._device.type == "cuda":
            batch["plan"] = batch["plan"].pin_memory()  # small; copied later without waiting for earlier work
        with torch.cuda.stream(self._copies):  # no effect if None
            if batch.get("image"):
                # As the decoder gives them, their bytes are in the order H, W, 3.
                images = self._copied([image.permute(1, 2, 0) for image in batch["image"]])
                batch["image"] = [image.permute(2, 0, 1) for image in images]
            if "views" in batch:
                (batch["views"],) = self._copied([batch["views"]])
            return batch, None if self._copies is None else self._copies.record_event()

    def _copied(self, tensors: list[Tensor]) -> list[Tensor]:
        """Tensors of one dtype on the device, in one copy."""
        sizes = [tensor.numel() for tensor in tensors]
        staged = torch.empty(sum(sizes), dtype=tensors[0].dtype, pin_memory=self._device.type == "cuda")
        for target, tensor in zip(staged.split(sizes), tensors, strict=True):
            target.view(tensor.shape).copy_(tensor)
        arrived = staged.to(self._device, non_blocking=True).split(sizes)
        return [part.view(tensor.shape) for part, tensor in zip(arrived, tensors, strict=True)]

    def _arrived(self, batch: Batch, arrival: Arrival) -> Batch:
        """The batch, for the current stream, which waits for the copy; the host does not."""
        if arrival is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(arrival)
            for tensor in (*batch.get("image", ()), *batch.get("views", ())):
                tensor.record_stream(here)  # its memory is not reused before the work here is done
        return batch
