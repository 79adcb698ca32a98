"""Copies the pixels of the next batch to the device while it works on this one."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = dict[str, Any]
Arrival: TypeAlias = torch.cuda.Event | None


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
