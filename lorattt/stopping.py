"""What ends the program from outside: Ctrl-C, SIGTERM, the end of a terminal, a scheduler's warning.

A first signal raises :class:`Stopped` where the program is; what it has journalled is kept, and the line that it ends
with says how to go on. SIGUSR1, by which schedulers warn of a job's end, waits for the end of a batch or an epoch.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_REPEAT_SECONDS = 1.0
# 0, which is no signal, where the platform lacks it.
_ALL = tuple(int(getattr(signal, name, 0)) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"))
INTERRUPT, TERMINATE, HANG_UP, WARNING = _ALL


class Stopped(BaseException):
    """A signal asked the program to end. Not an ``Exception``: nothing is to take it for a failure."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {'Ctrl-C' if name == 'SIGINT' else name}")
        self.number = number
        self.code = 128 + number  # the program's exit code, as shells have it


def listen(handler: Callable[[int, Any], None], numbers: tuple[int, ...] = _ALL) -> dict[int, Any]:
    """Handle signals, except those that are ignored, as by ``nohup``; returns the handlers that they had before."""
    if threading.current_thread() is not threading.main_thread():  # which alone can
        return {}
    before = {number: signal.getsignal(number) for number in numbers if number}
    for number, earlier in before.items():
        if earlier is not signal.SIG_IGN:
            signal.signal(number, handler)
    return before


@contextmanager
def listening(handler: Callable[[int, Any], None], numbers: tuple[int, ...] = _ALL) -> Iterator[None]:
    """Handle signals as :func:`listen` does, within this block."""
    before = listen(handler, numbers)
    try:
        yield
    finally:
        for number, earlier in before.items():
            if earlier is not None:  # one that was not set from Python
                signal.signal(number, earlier)


class Stops:
    """Turns signals into :class:`Stopped`, in the main thread of the process that listens."""

    def __init__(self) -> None:
        self._owner = 0
        self._reset()

    def _reset(self) -> None:
        self.asked, self._at = 0, 0.0  # the signal that asked the program to end, and when
        self.patient = False  # whether something is under way that will call `check` at a good moment to stop
        self.warned = False  # whether a scheduler's warning has come meanwhile
        self.notice = ""  # how far the run came and how it goes on, where a run was under way

    def listen(self) -> None:
        """Handle the signals again, where others have handled them since."""
        if self._owner:
            listen(self._handle)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen within this block."""
        self._reset()
        self._owner = os.getpid()
        with listening(self._handle):
            try:
                yield
            finally:
                self._owner = 0
                self._reset()  # what runs later in this process was not asked to stop

    def check(self, *, warning: bool) -> None:
        """Raise :class:`Stopped` if a signal has asked for it, or, with ``warning``, if a warning has come."""
        # One that was raised before may have been lost: nothing leaves a finaliser of Python's.
        if self.asked or (warning and self.warned):
            raise Stopped(self.asked or WARNING)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner:  # a process that was forked: its end is the listening one's business
            if number in (TERMINATE, HANG_UP):
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number == WARNING and (self.patient or self.warned):
            if not self.warned:
                self.warned = True
                if _first():
                    _say("SIGUSR1: stopping at the end of this batch, or of this epoch of a fit")
            return
        if not self.asked:
            self.asked, self._at = number, time.monotonic()
            raise Stopped(number)
        # The terminal and a program between may both pass on one Ctrl-C; a second one by a person comes later.
        if time.monotonic() - self._at > _REPEAT_SECONDS:
            _say("stopped at once")
            os._exit(128 + number)


STOPS = Stops()
"""This process's: signals are the process's own."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the program with one line and the signal's exit code where a signal stops this block.

    The code is 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 138 for SIGUSR1 on Linux.
    """
    with STOPS.heard():
        try:
            yield
        except Stopped as stop:
            if _first():
                with suppress(OSError):  # the terminal may be what has gone
                    sys.stdout.flush()
                    print(f"lorattt: {': '.join(filter(None, (str(stop), STOPS.notice)))}", file=sys.stderr)
            raise SystemExit(stop.code) from None


def _first() -> bool:
    """Whether this is the first process of a run, as whoever started it says."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _say(text: str) -> None:
    """Write a line from a signal's handler, where a print could meet itself."""
    with suppress(OSError):
        os.write(2, f"lorattt: {text}\n".encode(errors="backslashreplace"))
