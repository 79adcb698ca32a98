"""Runs in processes of their own that start at once, and may be killed.

A process of its own takes seconds to import everything; twenty of them would take minutes. Here one process imports
and then forks for each run. The tests' own process is no such parent: what ran in it before may have left threads.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = """
import json, os, sys, traceback
import torch
from lorattt.cli import main

torch.set_num_threads(1)
sys.argv = ["lorattt"]
names = {}
exec(os.environ["PREPARE"], names)


def run(job, env, log):
    os.setsid()
    os.chdir(job["cwd"])
    for target in (1, 2):
        os.dup2(os.open(f"{log}.{target}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
    os.environ.update(env)
    try:
        exec(job["before"], names)
        if job["args"] is not None:
            main(job["args"])
        return 0
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1


for line in sys.stdin:
    job = json.loads(line)
    children = []
    for rank, env in enumerate(job["envs"]):
        child = os.fork()
        if child == 0:
            try:
                code = run(job, env, f"{job['log']}.{rank}")
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        children.append(child)
    print(json.dumps(children), flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
"""


def environments(count: int) -> list[dict[str, str]]:
    """What tells each of several processes of a run on this machine which of them it is, and where they meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank)} for rank in range(count)]


@dataclass(frozen=True)
class Ended:
    """How the processes of a run ended: exit codes, below 0 for a signal, and what each wrote."""

    codes: list[int]
    out: list[str]
    err: list[str]


class Forks:
    """Starts runs; end it with :meth:`close`.

    Args:
        folder: An empty folder for what they write on the screen.
        prepare: Python that runs once; runs find its names.
    """

    def __init__(self, folder: Path, prepare: str = "") -> None:
        self._log = folder / "log"
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PREPARE": prepare},
        )

    def run(
        self,
        args: list[str] | None,
        cwd: Path,
        *,
        before: str = "",
        envs: list[dict[str, str]] | None = None,
        kill_when: Callable[[], bool] | None = None,
    ) -> Ended:
        """Run ``lorattt ARGS`` to its end, or kill it when ``kill_when`` has waited for its moment and says so.

        Args:
            args: The command's words; None for no command but ``before``.
            cwd: Where it runs.
            before: Python that runs in the process before the command.
            envs: Environment variables of each process; one process without any where None.
            kill_when: Called once, when the processes have started; true to kill them with SIGKILL.
        """
        envs = [{}] if envs is None else envs
        job = {"args": args, "cwd": str(cwd), "before": before, "envs": envs, "log": str(self._log)}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        children = self._answer()
        if kill_when is not None and kill_when():
            for child in children:
                with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                    os.kill(child, signal.SIGKILL)
        codes = self._answer()
        out, err = ([Path(f"{self._log}.{r}.{n}").read_text("utf-8") for r in range(len(envs))] for n in (1, 2))
        return Ended(codes, out, err)

    def _answer(self) -> Any:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the forking process has ended"
        return json.loads(line)

    def close(self) -> None:
        """End the forking process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
