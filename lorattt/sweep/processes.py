"""Runs as processes of their own, one after another or one on each of several devices, and the check of their keys."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorattt.errors import ERROR, UserError, one_line, shortened
from lorattt.show import format_duration
from lorattt.stopping import HANG_UP, INTERRUPT, TERMINATE, listening
from lorattt.sweep.folders import LOG_FILE, State, measured, note, prepare
from lorattt.sweep.plan import FIT, Run

PROGRAM = [sys.executable, "-m", "lorattt"]
CHECKER = [sys.executable, "-m", "lorattt.cli.dry"]
PAUSE = 0.1  # seconds between two looks at the processes: nothing beside a run's start
PATIENCE = 20.0  # seconds that a run has to end when it is asked to
_TAIL = 65536  # bytes
_LONGEST_REASON = 500  # characters


Slot = Mapping[str, str]
"""Room for one run at a time: what is set in its environment, such as CUDA_VISIBLE_DEVICES."""


def command_of(run: Run, slot: Slot) -> list[str]:
    """The command line of a run; a fit that left a checkpoint goes on from it."""
    command = [*PROGRAM, *run.arguments]
    if devices := slot.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--trainer.devices={len(devices.split(','))}")
    checkpoint = run.folder / "checkpoints" / "last.ckpt"
    if run.command == FIT and zipfile.is_zipfile(checkpoint):
        command.append(f"--ckpt_path={checkpoint}")
    return command


class Scheduler:
    """Runs what is to do; a run that fails ends nothing but itself. No thread is needed: every run is a process.

    Args:
        runs: The runs to do, each behind the fit that it needs, with what is on disk of each.
        slots: Where runs go, one at a time on each.
        keep_open: Descriptors that the processes inherit.
    """

    def __init__(self, runs: Mapping[str, tuple[Run, State]], slots: Sequence[Slot], keep_open: Sequence[int]) -> None:
        self._waiting = dict(runs)
        self._total = len(runs)
        self._slots, self._keep_open = slots, keep_open
        self._active: dict[int, _Process] = {}
        self.failed: dict[str, str] = {}  # why runs failed, by their names
        # Requests to stop: counted and looked at between two steps. An exception could come between the start of a
        # process and the note that it is there.
        self.stops = 0

    def work(self) -> None:
        """Do all runs, or those that are done when the user stops it; no process of a run is left when this ends."""
        with listening(self._stop, (INTERRUPT, TERMINATE, HANG_UP)):
            try:
                while (self._waiting or self._active) and not self.stops:
                    self._step()
            finally:
                self._end()

    def _stop(self, number: int, frame: Any) -> None:
        self.stops += 1
        if self.stops == 1:
            say("stopping: ending the runs at work; Ctrl-C again does not wait for them")

    def _step(self) -> None:
        for place, slot in enumerate(self._slots):
            while place not in self._active and (chosen := self._next()) is not None:
                self._start(*self._waiting.pop(chosen), place, slot)
        if self._active:
            time.sleep(PAUSE)
        for place, process in list(self._active.items()):
            if process.poll() is not None:
                del self._active[place]
                self._ended(process)

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
            self._active[place] = _Process(run, slot, command, self._keep_open)
        except (OSError, UserError) as error:
            self._fail(run, f"could not be started: {one_line(error)}")
            return
        say(f"start  {run.name}{where}{again}, {self._total - len(self._waiting)} of {self._total}")

    def _ended(self, process: "_Process") -> None:
        run = process.run
        if process.returncode != 0:
            self._fail(run, process.reason())
            return
        try:
            texts = measured(run)
            note(run, process.command, finished=True)
        except (OSError, UserError) as error:
            self._fail(run, one_line(error))
            return
        say(f"done   {run.name}: {', '.join([*texts, format_duration(time.monotonic() - process.started)])}")

    def _fail(self, run: Run, reason: str) -> None:
        self.failed[run.name] = reason
        say(f"failed {run.name}: {reason}")

    def _end(self) -> None:
        """End the processes with all that they started: asked first, then forced."""
        processes = list(self._active.values())
        for process in processes:
            process.signal_all(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline and self.stops < 2:
            time.sleep(0.05)
        for process in processes:
            process.signal_all(getattr(signal, "SIGKILL", signal.SIGTERM))
        for process in processes:
            process.wait()


class _Process(subprocess.Popen[bytes]):
    """A run at work; its output goes to ``log.txt`` in its folder, behind that of earlier attempts."""

    def __init__(self, run: Run, slot: Slot, command: list[str], keep_open: Sequence[int]) -> None:
        self.run, self.command, self.started = run, command, time.monotonic()
        with (run.folder / LOG_FILE).open("ab") as log:
            self._begins = log.tell()
            super().__init__(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **slot},  # so that the log can be followed
                pass_fds=tuple(keep_open),
                # Its own group: Ctrl-C reaches the sweep alone, which then ends the run with all that it started.
                start_new_session=True,
            )

    def signal_all(self, number: int) -> None:
        """Send a signal to the process and all that it started, if it is still at work."""
        if self.poll() is not None:
            return
        if sys.platform == "win32":
            self.terminate()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def reason(self) -> str:
        """Why it failed, as one line: its own error, else how it ended."""
        code, lines = self.returncode, self._last_lines()
        if errors := [line for line in lines if line.startswith(ERROR)]:
            return shortened(errors[-1].removeprefix(ERROR).strip(), _LONGEST_REASON)
        last = f"; its last line: {shortened(lines[-1], _LONGEST_REASON)}" if lines else ""
        if code < 0:
            why = ", as when memory runs out" if -code == signal.SIGKILL else ""
            return f"ended by signal {-code} ({signal.Signals(-code).name}){why}{last}"
        return f"ended with exit code {code}{last}"

    def _last_lines(self) -> list[str]:
        """The last lines of this attempt's output that are not blank."""
        with contextlib.suppress(OSError), (self.run.folder / LOG_FILE).open("rb") as file:
            file.seek(max(self._begins, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
            return [one_line(line) for line in lines if line.strip()]
        return []


def check(runs: Sequence[Run]) -> None:
    """Require command lines that parse, in one process, as it takes torch; of runs that differ in the seed, one."""
    if not runs:
        return
    chosen: dict[Path, Run] = {}
    for run in runs:
        chosen.setdefault(run.folder.parent, run)
    lines = json.dumps([run.arguments for run in chosen.values()])
    done = subprocess.run(CHECKER, input=lines, capture_output=True, text=True, encoding="utf-8")
    try:
        problems = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"the command lines cannot be checked: {last[:300]}") from None
    wrong = [f"{run.name}: {problem}" for run, problem in zip(chosen.values(), problems, strict=True) if problem]
    if wrong:
        more = f" ({len(wrong) - 1} more of {len(chosen)} are wrong as well)" if len(wrong) > 1 else ""
        raise UserError(f"{wrong[0]}{more}")


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
