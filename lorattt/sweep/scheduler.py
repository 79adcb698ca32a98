"""Runs one after another, or one on each of several devices; a run that fails ends nothing but itself."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lorattt.errors import UserError, one_line
from lorattt.show import format_duration, speed
from lorattt.sweep.folders import Result, State, note, prepare, results_of
from lorattt.sweep.plan import FIT, Run
from lorattt.sweep.processes import Process, Slot, command_of, end

PAUSE = 0.1  # seconds between two looks at the processes: nothing beside a run's start
PATIENCE = 20.0


@dataclass(frozen=True)
class Outcome:
    """How a run of this sweep ended.

    Attributes:
        run: The run.
        state: ``finished``; ``failed``; or ``stopped`` for one that Ctrl-C ended.
        seconds: How long it ran.
        reason: Why it failed, as one line.
    """

    run: Run
    state: Literal["finished", "failed", "stopped"]
    seconds: float = 0.0
    reason: str = ""


class Stops:
    """Counts requests to stop: Ctrl-C, the end of the terminal, or of the job.

    A count, looked at between two steps, rather than an exception, which could come between the start of a process
    and the note that it is there.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def heard(self, say: Callable[[str], None]) -> Iterator[None]:
        """Count within this block."""

        def stop(number: int, frame: Any) -> None:
            self.count += 1
            if self.count == 1:
                say("stopping: ending the runs at work; Ctrl-C again does not wait for them")

        # Those that are ignored, as by nohup, stay so. Only the main thread may ask for signals.
        wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        main = threading.current_thread() is threading.main_thread()
        old = {number: signal.getsignal(number) for number in wanted if main}
        try:
            for number, handler in old.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, stop)
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class Scheduler:
    """Runs what is to do; no thread is needed, since every run is a process.

    Args:
        runs: The runs to do, each behind the fit it needs, with what is on disk of each.
        slots: Where runs go, one at a time on each.
        program: The command that ``lorattt`` is.
        say: Prints a line.
        after_each: Called after each run that ended.
        stops: What the user asked.
        keep_open: Descriptors that the processes inherit.

    Attributes:
        outcomes: How the runs ended, by name, those that did so far.
    """

    def __init__(
        self,
        runs: Mapping[str, tuple[Run, State]],
        slots: Sequence[Slot],
        program: Sequence[str],
        say: Callable[[str], None],
        after_each: Callable[[], None],
        stops: Stops,
        keep_open: Sequence[int] = (),
    ) -> None:
        self._waiting = list(runs.values())
        self._total = len(self._waiting)
        self._slots, self._program, self._say, self._after_each = slots, program, say, after_each
        self._stops, self._keep_open = stops, keep_open
        self._active: dict[int, Process] = {}
        self._begun = 0
        self.outcomes: dict[str, Outcome] = {}

    def work(self) -> None:
        """Do all runs, or those that are done when the user stops it.

        Whatever ends this call, no process of a run is left when it has ended.
        """
        try:
            while (self._waiting or self._active) and not self._stops.count:
                self._fill()
                if self._active:
                    time.sleep(PAUSE)
                for place, process in list(self._active.items()):
                    if process.poll() is not None:
                        del self._active[place]
                        self._ended(process)
        finally:
            if self._active:
                end(list(self._active.values()), PATIENCE, lambda: self._stops.count > 1)
            for process in self._active.values():
                self.outcomes[process.run.name] = Outcome(process.run, "stopped", process.seconds)

    def _fill(self) -> None:
        """Give each free slot the first run that can begin."""
        for place, slot in enumerate(self._slots):
            while place not in self._active and (chosen := self._next()) is not None:
                run, state = self._waiting.pop(chosen)
                self._begun += 1
                if process := self._start(run, state, slot):
                    self._active[place] = process

    def _next(self) -> int | None:
        """Place of the first run whose fit has ended; those whose fit failed are failed here."""
        unfinished = {run.name for run, _ in self._waiting} | {p.run.name for p in self._active.values()}
        place = 0
        while place < len(self._waiting):
            run, _ = self._waiting[place]
            fit = self.outcomes.get(run.needs.name) if run.needs else None
            if fit is not None and fit.state == "failed":
                del self._waiting[place]
                self._begun += 1
                self._note(Outcome(run, "failed", reason=f"its fit {fit.run.name} failed: {fit.reason}"))
            elif run.needs and run.needs.name in unfinished:
                place += 1
            else:
                return place
        return None

    def _start(self, run: Run, state: State, slot: Slot) -> Process | None:
        place = "" if slot.devices is None else f" (GPU {slot.devices})"
        again = ", begun before" if state == "begun" else ""
        try:
            prepare(run, state)
            command = command_of(run, slot, self._program)
            note(run, command, finished=False)
            process = Process(run, slot, command, self._keep_open)
        except (OSError, UserError) as error:
            self._note(Outcome(run, "failed", reason=f"could not be started: {one_line(error)}"))
            return None
        self._say(f"start  {run.name}{place}{again}, {self._begun} of {self._total}")
        return process

    def _ended(self, process: Process) -> None:
        run, seconds = process.run, process.seconds
        if process.poll() != 0:
            self._note(Outcome(run, "failed", seconds, process.reason()))
            return
        try:
            if run.command == FIT and not (run.folder / run.product).exists():
                raise UserError(f"ended without {run.product}; remove {run.folder} to fit again")
            results = results_of(run)
            note(run, process.command, finished=True)
        except (OSError, UserError) as error:
            self._note(Outcome(run, "failed", seconds, one_line(error)))
            return
        self._note(Outcome(run, "finished", seconds), results)

    def _note(self, outcome: Outcome, results: Sequence[Result] = ()) -> None:
        self.outcomes[outcome.run.name] = outcome
        if outcome.state == "failed":
            self._say(f"failed {outcome.run.name}: {outcome.reason}")
        else:
            parts = [*filter(None, (measured(results),)), format_duration(outcome.seconds)]
            self._say(f"done   {outcome.run.name}: {', '.join(parts)}")
        self._after_each()


def measured(results: Sequence[Result]) -> str:
    """Top-1 before and after, and the speed, of a run as a piece of a line."""
    if not results:
        return ""
    first = results[0]
    parts = []
    if first.before is not None and first.after is not None:
        if first.member:
            each = [f"{r.member} {100 * r.after:.2f}" for r in results if r.after is not None]
            parts.append(f"top-1 {100 * first.before:.2f} -> {', '.join(each)} %")
        else:
            parts.append(f"top-1 {100 * first.before:.2f} -> {100 * first.after:.2f} %")
    else:
        parts.append(f"{first.n} images")
    return ", ".join([*parts, *([f"{speed(first.n / first.seconds)} images/s"] if first.seconds > 0 else [])])
