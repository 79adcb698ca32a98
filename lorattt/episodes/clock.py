"""Where the time of a run goes: seconds per named stage, on the clock of the device that does the work."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

# Marks kept before their times are read: on a CUDA device reading waits for the work before them.
_PENDING = 4096


class _Mark(Protocol):
    def seconds_since(self, earlier: "_Mark") -> float: ...


class _HostMark:
    def __init__(self) -> None:
        self.at = time.perf_counter()

    def seconds_since(self, earlier: "_Mark") -> float:
        assert isinstance(earlier, _HostMark)
        return self.at - earlier.at


class _DeviceMark:
    """A place in the queue of the device: nothing waits for it until its time is asked for."""

    def __init__(self, device: torch.device) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record(torch.cuda.current_stream(device))

    def seconds_since(self, earlier: "_Mark") -> float:
        assert isinstance(earlier, _DeviceMark)
        self.event.synchronize()
        return float(earlier.event.elapsed_time(self.event)) / 1000


class StageTimer:
    """Adds up the time between marks, for the stage that is under way; a stage within another interrupts it.

    On a CUDA device the marks are events in its queue, so the times are those of the device and measuring them holds
    nothing up; elsewhere they are the host's.

    Args:
        device: Whose clock; null for the host's.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        self._stages: list[str] = []
        self._last: _Mark | None = None
        self._pending: deque[tuple[str, _Mark, _Mark]] = deque()
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

    def add(self, name: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, in the order in which they first came; waits for the device."""
        while self._pending:
            self._read()
        return dict(self._seconds)

    def _switch(self) -> None:
        mark: _Mark = _HostMark() if self._device is None else _DeviceMark(self._device)
        if self._stages and self._last is not None:
            self._seconds.setdefault(self._stages[-1], 0.0)
            self._pending.append((self._stages[-1], self._last, mark))
        self._last = mark
        if self._device is None or len(self._pending) > _PENDING:
            while self._pending and (self._device is None or len(self._pending) > _PENDING // 2):
                self._read()

    def _read(self) -> None:
        name, start, end = self._pending.popleft()
        self.add(name, end.seconds_since(start))
