"""Runs one after another, or one on each of several devices; a run that fails ends nothing but itself."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorattt.errors import UserError, one_line
from lorattt.show import format_duration
from lorattt.sweep.folders import State, measured, note, prepare
from lorattt.sweep.plan import Run
from lorattt.sweep.processes import Process, Slot, command_of, end

PAUSE = 0.1  # seconds between two looks at the processes: nothing beside a run's start
PATIENCE = 20.0  # seconds that a run has to end when it is asked to


@contextlib.contextmanager
def count_stops() -> Iterator[list[int]]:
    """Collect the requests to stop within this block: Ctrl-C, the end of the terminal, or of the job.

    A list, looked at between two steps, rather than an exception, which could come between the start of a process
    and the note that it is there.
    """
    stops: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stops.append(number)
        if len(stops) == 1:
            say("stopping: ending the runs at work; Ctrl-C again does not wait for them")

    # Those that are ignored, as by nohup, stay so. Only the main thread may ask for signals.
    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    main = threading.current_thread() is threading.main_thread()
    old = {number: signal.getsignal(number) for number in wanted if main}
    try:
        for number, handler in old.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield stops
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Scheduler:
    """Runs what is to do; no thread is needed, since every run is a process.

    Args:
        runs: The runs to do, each behind the fit that it needs, with what is on disk of each.
        slots: Where runs go, one at a time on each.
        stops: Requests to stop, see :func:`count_stops`.
        keep_open: Descriptors that the processes inherit.

    Attributes:
        failed: Why runs failed, by their names.
    """

    def __init__(
        self,
        runs: Mapping[str, tuple[Run, State]],
        slots: Sequence[Slot],
        stops: Sequence[int],
        keep_open: Sequence[int],
    ) -> None:
        self._waiting = dict(runs)
        self._total = len(runs)
        self._slots, self._stops, self._keep_open = slots, stops, keep_open
        self._active: dict[int, Process] = {}
        self.failed: dict[str, str] = {}

    def work(self) -> None:
        """Do all runs, or those that are done when the user stops it.

        Whatever ends this call, no process of a run is left when it has ended.
        """
        try:
            while (self._waiting or self._active) and not self._stops:
                for place, slot in enumerate(self._slots):
                    while place not in self._active and (chosen := self._next()) is not None:
                        self._start(*self._waiting.pop(chosen), place, slot)
                if self._active:
                    time.sleep(PAUSE)
                for place, process in list(self._active.items()):
                    if process.poll() is not None:
                        del self._active[place]
                        self._ended(process)
        finally:
            end(list(self._active.values()), PATIENCE, lambda: len(self._stops) > 1)

    def _next(self) -> str | None:
        """Name of the first run whose fit has ended; those whose fit failed are failed here."""
        unfinished = {*self._waiting, *(process.run.name for process in self._active.values())}
        for name, (run, _) in list(self._waiting.items()):
            fit = run.needs.name if run.needs else ""
            if fit in self.failed:
                del self._waiting[name]
                self._fail(run, f"its fit {fit} failed: {self.failed[fit]}")
            elif fit not in unfinished:
                return name
        return None

    def _start(self, run: Run, state: State, place: int, slot: Slot) -> None:
        where = f" (GPU {slot['CUDA_VISIBLE_DEVICES']})" if "CUDA_VISIBLE_DEVICES" in slot else ""
        again = ", begun before" if state == "begun" else ""
        try:
            prepare(run, state)
            command = command_of(run, slot)
            note(run, command, finished=False)
            self._active[place] = Process(run, slot, command, self._keep_open)
        except (OSError, UserError) as error:
            self._fail(run, f"could not be started: {one_line(error)}")
            return
        say(f"start  {run.name}{where}{again}, {self._total - len(self._waiting)} of {self._total}")

    def _ended(self, process: Process) -> None:
        run = process.run
        if process.poll() != 0:
            self._fail(run, process.reason())
            return
        try:
            texts = measured(run)
            note(run, process.command, finished=True)
        except (OSError, UserError) as error:
            self._fail(run, one_line(error))
            return
        say(f"done   {run.name}: {', '.join([*texts, format_duration(process.seconds)])}")

    def _fail(self, run: Run, reason: str) -> None:
        self.failed[run.name] = reason
        say(f"failed {run.name}: {reason}")


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
