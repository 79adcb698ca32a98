"""One run as a process of its own, with all that it starts."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lorattt.errors import ERROR
from lorattt.sweep.folders import LOG_FILE
from lorattt.sweep.plan import FIT, Run

_TAIL = 65536
_LONGEST_REASON = 500


@dataclass(frozen=True)
class Slot:
    """Room for one run at a time.

    Attributes:
        devices: Its ``CUDA_VISIBLE_DEVICES``; None to leave that as it is.
        threads: Threads of torch's own for each of several runs on the same processor; None to leave that to torch.
    """

    devices: str | None = None
    threads: int | None = None

    def arguments(self, run: Run) -> list[str]:
        """What a run is told of its devices."""
        if self.devices is None:
            return []
        # Without this, a machine whose GPU is not found would go on with its processor, a hundred times as long.
        gpu = [] if run.accelerator else ["--trainer.accelerator=gpu"]
        return [*gpu, f"--trainer.devices={len(self.devices.split(','))}"]

    def environment(self) -> dict[str, str]:
        """What is set for a run beside the environment of the sweep."""
        found = {"PYTHONUNBUFFERED": "1"}  # so that the log can be followed
        if self.devices is not None:
            found["CUDA_VISIBLE_DEVICES"] = self.devices
        if self.threads is not None and "OMP_NUM_THREADS" not in os.environ:
            found["OMP_NUM_THREADS"] = str(self.threads)
        return found


def command_of(run: Run, slot: Slot, program: Sequence[str]) -> list[str]:
    """The command line of a run; a fit that left a checkpoint goes on from it."""
    command = [*program, *run.arguments, *slot.arguments(run)]
    checkpoint = run.folder / "checkpoints" / "last.ckpt"
    if run.command == FIT and zipfile.is_zipfile(checkpoint):
        command.append(f"--ckpt_path={checkpoint}")
    return command


class Process:
    """A run at work; its output goes to ``log.txt`` in its folder, behind that of earlier attempts.

    Args:
        run: The run, whose folder exists.
        slot: Where it runs.
        command: Its command line.
        keep_open: Descriptors that the process inherits.

    Raises:
        OSError: If the log cannot be written or the program cannot be started.
    """

    def __init__(self, run: Run, slot: Slot, command: list[str], keep_open: Sequence[int] = ()) -> None:
        self.run, self.slot, self.command = run, slot, command
        self.started = time.monotonic()
        self._log = run.folder / LOG_FILE
        with self._log.open("ab") as log:
            self._begins = log.tell()
            self._popen = self._start(log, keep_open)

    def _start(self, log: IO[bytes], keep_open: Sequence[int]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.slot.environment()},
            pass_fds=tuple(keep_open),
            # Its own group: Ctrl-C reaches the sweep alone, which then ends the run with all that it started.
            start_new_session=True,
        )

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """Its exit code; None while it is at work."""
        return self._popen.poll()

    def wait(self) -> None:
        """Wait for its end."""
        self._popen.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the process and all that it started, if it is still at work."""
        if self._popen.poll() is not None:
            return
        if sys.platform == "win32":
            self._popen.terminate()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def reason(self) -> str:
        """Why it failed, as one line: its own error, else how it ended."""
        code = self._popen.returncode
        lines = tail(self._log, self._begins)
        if errors := [line for line in lines if line.startswith(ERROR)]:
            return _short(errors[-1].removeprefix(ERROR))
        last = f"; its last line: {_short(lines[-1])}" if lines else ""
        if code < 0:
            why = ", as when memory runs out" if -code == signal.SIGKILL else ""
            return f"ended by signal {-code} ({signal.Signals(-code).name}){why}{last}"
        return f"ended with exit code {code}{last}"


def end(processes: Sequence[Process], patience: float, impatient: Callable[[], bool]) -> None:
    """End processes with all that they started: asked first, then forced.

    Args:
        processes: Those at work.
        patience: Seconds between the two.
        impatient: Whether to wait no longer.
    """
    for process in processes:
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline or impatient():
            break
        time.sleep(0.05)
    for process in processes:
        process.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    for process in processes:
        process.wait()


def tail(path: Path, begins: int) -> list[str]:
    """The last lines of a file that are not blank, of those behind an offset."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(begins, file.tell() - _TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 3]}..."
