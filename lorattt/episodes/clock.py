"""Where the time of a run goes: seconds per named stage, on the clock of the device that does the work."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Marks kept before their times are read: on a CUDA device reading waits for the work before them.
_PENDING = 4096


class StageTimer:
    """Adds up the time of each stage; a stage within another interrupts it.

    On a CUDA device the marks are events in its queue: the times are the device's, and measuring does not wait for it.
    Without a device, and on others, they are the host's.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        self._stages: list[str] = []
        self._last: Any = None
        self._pending: deque[tuple[str, Any, Any]] = deque()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything within counts as that stage, but for stages within it."""
        self._switch()
        self._stages.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stages.pop()

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, in the order in which they first came; waits for the device."""
        self._read(keep=0)
        return dict(self._seconds)

    def _switch(self) -> None:
        mark = self._mark()
        if self._stages:
            self._seconds.setdefault(self._stages[-1], 0.0)
            self._pending.append((self._stages[-1], self._last, mark))
        self._last = mark
        if self._device is None or len(self._pending) > _PENDING:
            self._read(keep=0 if self._device is None else _PENDING // 2)

    def _mark(self) -> Any:
        """The host's time; on a CUDA device an event in its queue, whose time is read later."""
        if self._device is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self, keep: int) -> None:
        while len(self._pending) > keep:
            name, start, end = self._pending.popleft()
            if self._device is None:
                self._seconds[name] += end - start
            else:
                end.synchronize()
                self._seconds[name] += start.elapsed_time(end) / 1000
