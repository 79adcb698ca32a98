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

    On a CPU the thread does the same without pinned memory and streams.

    Args:
        device: Where the batches are used: a CUDA device, or the CPU.
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
        batch = next(source, None)
        return None if batch is None else self._send(batch)

    def _send(self, batch: Batch) -> tuple[Batch, Arrival]:
        batch = dict(batch)
        with torch.cuda.stream(self._copies):  # no effect if None
            if batch.get("image"):
                batch["image"] = self._send_images(batch["image"])
            if "views" in batch:
                batch["views"] = self._send_views(batch["views"])
            return batch, None if self._copies is None else self._copies.record_event()

    def _send_views(self, views: Tensor) -> Tensor:
        """Views ``(E, V, 3, S, S)``, by way of pinned memory."""
        if self._device.type == "cuda" and not views.is_pinned():
            views = torch.empty_like(views, pin_memory=True).copy_(views)
        return views.to(self._device, non_blocking=True)

    def _send_images(self, images: list[Tensor]) -> list[Tensor]:
        """Images ``(3, H, W)`` uint8 in one copy; as the decoder gives them, their bytes are in the order H, W, 3."""
        rows = [image.permute(1, 2, 0) for image in images]
        sizes = [image.numel() for image in rows]
        staged = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for target, image in zip(staged.split(sizes), rows, strict=True):
            target.view(image.shape).copy_(image)
        arrived = staged.to(self._device, non_blocking=True).split(sizes)
        return [part.view(image.shape).permute(2, 0, 1) for part, image in zip(arrived, rows, strict=True)]

    def _arrived(self, batch: Batch, arrival: Arrival) -> Batch:
        """The batch, for the current stream, which waits for the copy; the host does not."""
        if arrival is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(arrival)
            for tensor in (*batch.get("image", ()), *batch.get("views", ())):
                tensor.record_stream(here)  # its memory is not reused before the work here is done
        return batch
