"""Pixels sent to a device while it is at work on the batch before."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

Batch = dict[str, Any]
_PIXELS = ("image", "views")


class _Sent(NamedTuple):
    """A batch on its way, or what came in its place: the end of the batches (both None) or an error."""

    batch: Batch | None = None
    arrival: Any = None
    error: Exception | None = None


class SendAhead:
    """Gives each batch when the one after it is on its way to the device.

    A GPU copies while it computes if the bytes lie in pinned memory and the copy stands in another queue than the
    work. So the images of a batch are put one behind another into pinned memory and go to the device in one copy, in
    a stream for copies alone. PyTorch's allocator keeps pinned memory and hands it out again when its copy is over:
    two buffers come to take turns. What is small, such as labels and plans of views, travels as ever.

    On a CPU the same steps are taken, without pinned memory and in turn.

    Args:
        device: Where the batches are used: a CUDA device, or the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._library: Any = torch.cuda if self._pinned else torch.cpu
        self._copies = torch.cuda.Stream(device) if self._pinned else torch.cpu.Stream()

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches in their order, ``image`` or ``views`` on the device.

        What goes wrong in fetching a batch is raised at its turn, when those before it have been given.
        """
        source = iter(batches)
        following = self._fetch(source)
        while following.batch is not None:
            sent, following = following, self._fetch(source)
            yield self._arrived(sent)
            del sent  # before the next but one needs room
        if following.error is not None:
            raise following.error

    def _fetch(self, source: Iterator[Batch]) -> _Sent:
        try:
            batch = next(source, None)
            return _Sent() if batch is None else self._send(batch)
        except Exception as error:
            return _Sent(error=error)

    def _send(self, batch: Batch) -> _Sent:
        batch = dict(batch)
        with self._library.stream(self._copies):
            if batch.get("image"):
                batch["image"] = self._send_images(batch["image"])
            if "views" in batch:
                batch["views"] = batch["views"].to(self._device, non_blocking=True)
            return _Sent(batch, self._copies.record_event())

    def _send_images(self, images: list[Tensor]) -> list[Tensor]:
        """Images ``(3, H, W)`` uint8 in one copy; as the decoder gives them, their bytes are in the order H, W, 3."""
        rows = [image.permute(1, 2, 0) for image in images]
        sizes = [image.numel() for image in rows]
        staged = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=self._pinned)
        for place, image in zip(staged.split(sizes), rows, strict=True):
            place.view(image.shape).copy_(image)
        arrived = staged.to(self._device, non_blocking=True).split(sizes)
        return [part.view(image.shape).permute(2, 0, 1) for part, image in zip(arrived, rows, strict=True)]

    def _arrived(self, sent: _Sent) -> Batch:
        """The batch, for the stream that works on it: what follows there waits for the copy, the host does not."""
        assert sent.batch is not None
        here = self._library.current_stream(self._device)
        here.wait_event(sent.arrival)
        if self._pinned:
            for key in _PIXELS:
                for tensor in sent.batch.get(key, ()):
                    tensor.record_stream(here)  # its memory is not given away before the work here is done with it
        return sent.batch
