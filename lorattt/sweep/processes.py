"""One run as a process of its own, with all that it starts; and the check of the command lines in another one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lorattt.errors import ERROR, UserError, shortened
from lorattt.sweep.folders import LOG_FILE
from lorattt.sweep.plan import FIT, Run

PROGRAM = [sys.executable, "-m", "lorattt"]
CHECKER = [sys.executable, "-m", "lorattt.cli.dry"]
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


class Process:
    """A run at work; its output goes to ``log.txt`` in its folder, behind that of earlier attempts.

    The process inherits the descriptors ``keep_open``.
    """

    def __init__(self, run: Run, slot: Slot, command: list[str], keep_open: Sequence[int]) -> None:
        self.run, self.command = run, command
        self._started = time.monotonic()
        with (run.folder / LOG_FILE).open("ab") as log:
            self._begins = log.tell()
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **slot},  # so that the log can be followed
                pass_fds=tuple(keep_open),
                # Its own group: Ctrl-C reaches the sweep alone, which then ends the run with all that it started.
                start_new_session=True,
            )
        self.poll, self.wait = self._popen.poll, self._popen.wait

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self._started

    def signal(self, number: int) -> None:
        """Send a signal to the process and all that it started, if it is still at work."""
        if self.poll() is not None:
            return
        if sys.platform == "win32":
            self._popen.terminate()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def reason(self) -> str:
        """Why it failed, as one line: its own error, else how it ended."""
        code, lines = self._popen.returncode, self._last_lines()
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
            return [" ".join(line.split()) for line in lines if line.strip()]
        return []


def end(processes: Sequence[Process], patience: float, impatient: Callable[[], bool]) -> None:
    """End processes with all that they started: asked first, then, after ``patience`` seconds, forced."""
    for process in processes:
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline and not impatient():
        time.sleep(0.05)
    for process in processes:
        process.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    for process in processes:
        process.wait()


def check(runs: Sequence[Run]) -> None:
    """Have the command lines parsed in one process, as that takes torch; runs that differ only in their seed once.

    Raises:
        UserError: If a key or a value of one is wrong, or they cannot be checked.
    """
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
