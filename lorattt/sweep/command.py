"""``lorattt sweep FILE``: methods x datasets x seeds, one run after another or one on each GPU, and their tables."""

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import lock_descriptor

from lorattt.errors import UserError, error_line
from lorattt.sweep import processes
from lorattt.sweep.folders import LOG_FILE, State, measured, state_of
from lorattt.sweep.plan import Run, argument, plan, select
from lorattt.sweep.processes import Scheduler, Slot, check, command_of, say
from lorattt.sweep.spec import Sweep, read_sweep

_STOPPED = 130  # as the shell has it for Ctrl-C
_LONG_TABLES = "\n## Measures"  # from here on, a report has tables with a row for each method and dataset
_EPILOG = (
    "What is finished is not run again; what was begun goes on. Exit code 0: all is done; 1: a run failed; "
    "2: something in the file is wrong; 130: stopped."
)
_Todo = dict[str, tuple[Run, State]]


def main(args: Sequence[str] | None = None) -> int:
    """The command line after ``lorattt sweep``, or the process's own arguments; returns the exit code."""
    given = _parser().parse_args(args)
    try:
        return _sweep(given)
    except UserError as error:
        print(error_line(error), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough; the runs have been ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit's own flush would fail again
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorattt sweep", description=__doc__, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="what to run, such as lightning_configs/sweeps/demo.yaml"
    )
    parser.add_argument("--out", help="folder of all runs, instead of the file's")
    parser.add_argument("--devices", help="GPUs, such as 0,1: one run at a time on each")
    parser.add_argument("--jobs", type=int, help="runs at a time where there are no GPUs")
    parser.add_argument("--only", action="append", default=[], metavar="METHOD/DATASET", help="only these; may hold *")
    parser.add_argument(
        "--key", action="append", default=[], metavar="KEY=VALUE", help="for every run, such as data.data_root=/data"
    )
    parser.add_argument("--redo", action="store_true", help="run again what was made with other settings")
    parser.add_argument("--keep", action="store_true", help="leave as it is what was finished with other settings")
    parser.add_argument("--dry-run", action="store_true", help="only list the commands")
    return parser


def _sweep(given: argparse.Namespace) -> int:
    devices = None if given.devices is None else given.devices.split(",")
    sweep = read_sweep(given.file, dict(map(_pair, given.key)), out=given.out, devices=devices, jobs=given.jobs)
    planned = plan(sweep)
    chosen = select(planned, given.only)
    with contextlib.nullcontext(()) if given.dry_run else _locked(sweep.out) as keep_open:
        todo = _to_do(chosen, keep=given.keep, redo=given.redo)
        slots = _slots(sweep)
        check([run for run, _ in todo.values()])
        done = f"{len(todo)} runs to do, {sum(run.name not in todo for run in chosen)} of {len(chosen)} finished before"
        if given.dry_run:
            _show(done, todo, slots)
            return 0
        say(f"{done}; in {sweep.out}")
        scheduler = Scheduler(todo, slots, keep_open)
        scheduler.work()
    failed = [f"- {name}: {reason} ({sweep.out / name / LOG_FILE})" for name, reason in scheduler.failed.items()]
    print("\n".join(["\nFailed:", *failed] if failed else []))
    report = f"`lorattt report {shlex.quote(str(sweep.out))}`"
    if scheduler.stops:
        print(f"stopped: the same command goes on; {report} shows what is finished", flush=True)
        return _STOPPED
    _show_tables(sweep, planned, keep=given.keep)
    print(f"plots and a page: {report}", flush=True)
    return int(bool(failed))


def _to_do(chosen: Sequence[Run], *, keep: bool, redo: bool) -> _Todo:
    """The runs that are not finished, each behind its fit, which is done only for a run that is to do."""
    todo: _Todo = {}
    for run in chosen:
        state = state_of(run, keep=keep, redo=redo)
        if state == "finished":
            measured(run)  # damaged results are reported now
            continue
        if run.needs and run.needs.name not in todo:
            fit = state_of(run.needs, keep=keep, redo=redo)
            if fit != "finished":
                todo[run.needs.name] = (run.needs, fit)
        todo[run.name] = (run, state)
    return todo


def _slots(sweep: Sweep) -> list[Slot]:
    if sweep.devices is not None:
        return [{"CUDA_VISIBLE_DEVICES": devices} for devices in sweep.devices]
    if sweep.jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{}] * sweep.jobs
    # Several runs that each take all cores only wait for each other.
    return [{"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // sweep.jobs))}] * sweep.jobs


def _show(done: str, todo: _Todo, slots: Sequence[Slot]) -> None:
    print(f"# {done}")
    if gpus := [slot["CUDA_VISIBLE_DEVICES"] for slot in slots if "CUDA_VISIBLE_DEVICES" in slot]:
        print(f"# one at a time on each of the GPUs {'; '.join(gpus)}")
    for run, state in todo.values():
        print(f"# {run.name}{' (begun before)' if state == 'begun' else ''}")
        print(shlex.join(command_of(run, slots[0])))


def _show_tables(sweep: Sweep, planned: Sequence[Run], *, keep: bool) -> None:
    """Have ``lorattt report`` make the tables of all that is finished, and show those of accuracy."""
    finished: dict[str, str] = {}  # the report's arguments, and what each run measured
    for run in planned:
        # Runs that were left out now may be there from earlier, but not if they have other settings.
        with contextlib.suppress(UserError):
            if state_of(run, keep=keep) == "finished":
                row = run.name.partition("/")[0].replace("=", " ")  # the method with its values of the grid
                finished[f"{row}={run.folder}"] = f"{run.name}: {', '.join(measured(run))}"
    print(f"{len(finished)} of {len(planned)} runs are finished.")
    if not finished:
        return
    folder = sweep.out / "report"
    command = [*processes.PROGRAM, "report", *finished, "--out", str(folder), "--format", "markdown", "--no-published"]
    utf8 = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=utf8)
    if done.returncode:
        print("\n".join(finished.values()))
        print(f"no tables: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    else:
        print(done.stderr, end="", file=sys.stderr)
        print(f"{done.stdout.partition(_LONG_TABLES)[0]}\nall tables: {folder / 'report.md'}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[tuple[int, ...]]:
    """Keep other sweeps out of a folder; yields descriptors for its runs, which keep it where the sweep is killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "sweep.lock").open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"out {folder}: cannot be made ({error.strerror}): name another one") from None
    with file:
        try:
            if not lock_descriptor(file.fileno(), blocking=False):
                raise UserError(f"{folder}: another sweep, or a run that it left, is at work there: wait or end it")
            locked = True
        except OSError:  # a file system without locks
            locked = False
        yield (file.fileno(),) if locked and os.name != "nt" else ()  # Windows passes no descriptors on


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--key {text}: write it as KEY=VALUE")
    try:
        found = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return key, value
    return key, found if argument(found) == value else value  # else YAML would change what was typed
