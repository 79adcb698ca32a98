"""``lorattt sweep FILE``: methods x datasets x seeds, one run after another or one on each GPU, and one table."""

import argparse
import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import lock_descriptor

from lorattt.errors import UserError, error_line
from lorattt.sweep.check import check
from lorattt.sweep.folders import Result, State, replace, results_of, state_of
from lorattt.sweep.plan import Run, argument, plan, select
from lorattt.sweep.processes import Slot, command_of
from lorattt.sweep.scheduler import Outcome, Scheduler, Stops
from lorattt.sweep.spec import Sweep, read_sweep
from lorattt.sweep.table import as_json, failures, markdown, rows_of

_STOPPED = 130  # as the shell has it for Ctrl-C
_EPILOG = (
    "What is finished is not run again; what was begun goes on. Exit code 0: all is done; 1: a run failed; "
    "2: something in the file is wrong; 130: stopped."
)


def main(
    args: Sequence[str] | None = None, program: Sequence[str] | None = None, checker: Sequence[str] | None = None
) -> int:
    """The command.

    Args:
        args: What follows ``lorattt sweep``; the process's own arguments where None.
        program: What ``lorattt`` is; for tests.
        checker: What says which command lines are wrong: ``lorattt.cli.dry``, or nothing for another program.

    Returns:
        The exit code.
    """
    given = _parser().parse_args(args)
    try:
        if program is None:
            program, checker = [sys.executable, "-m", "lorattt"], checker or [sys.executable, "-m", "lorattt.cli.dry"]
        return _sweep(given, program, checker)
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


def _sweep(given: argparse.Namespace, program: Sequence[str], checker: Sequence[str] | None) -> int:
    devices = None if given.devices is None else given.devices.split(",")
    keys = dict(map(_pair, given.key))
    sweep = read_sweep(given.file, {"out": given.out, "devices": devices, "jobs": given.jobs, "keys": keys})
    planned = plan(sweep)
    chosen = select(planned, given.only)
    with contextlib.nullcontext(()) if given.dry_run else _locked(sweep.out) as keep_open:
        todo = _to_do(chosen, keep=given.keep, redo=given.redo)
        slots = _slots(sweep)
        if checker and todo:
            check([run for run, _ in todo.values()], checker)
        if given.dry_run:
            _show(chosen, todo, slots, program)
            return 0
        stops = Stops()

        def tabulate() -> None:
            try:
                _write(sweep, *_table(sweep, planned, scheduler.outcomes, keep=given.keep))
            except OSError as error:
                _say(f"the table cannot be written: {error}")

        scheduler = Scheduler(todo, slots, program, _say, tabulate, stops, keep_open)
        done = len(chosen) - sum(run.name in todo for run in chosen)
        _say(f"{len(todo)} runs to do, {done} of {len(chosen)} finished before; in {sweep.out}")
        with stops.heard(_say):
            scheduler.work()
        return _close(sweep, planned, scheduler.outcomes, stopped=stops.count > 0, keep=given.keep)


def _close(sweep: Sweep, planned: Sequence[Run], outcomes: Mapping[str, Outcome], *, stopped: bool, keep: bool) -> int:
    text, contents = _table(sweep, planned, outcomes, keep=keep)
    print(f"\n{text}", flush=True)
    try:
        _write(sweep, text, contents)
    except OSError as error:
        raise UserError(f"{sweep.out}: the table cannot be written ({error})") from None
    last = f"`lorattt report {shlex.quote(str(sweep.out))}` for more"
    print(f"written to {sweep.out / 'sweep.md'} and sweep.json; {last}", flush=True)
    if stopped:
        print("stopped: the same command goes on", flush=True)
        return _STOPPED
    return int(any(outcome.state != "finished" for outcome in outcomes.values()))


def _to_do(chosen: Sequence[Run], *, keep: bool, redo: bool) -> dict[str, tuple[Run, State]]:
    """The runs that are not finished, each behind its fit, which is done only for a run that is to do."""
    todo: dict[str, tuple[Run, State]] = {}
    for run in chosen:
        state = state_of(run, keep=keep, redo=redo)
        if state == "finished":
            results_of(run)  # damaged results are told now
            continue
        if run.needs and run.needs.name not in todo:
            fit = state_of(run.needs, keep=keep, redo=redo)
            if fit != "finished":
                todo[run.needs.name] = (run.needs, fit)
        todo[run.name] = (run, state)
    return todo


def _slots(sweep: Sweep) -> list[Slot]:
    if sweep.devices is not None:
        return [Slot(devices) for devices in sweep.devices]
    # Several runs that each take all cores only wait for each other.
    threads = max(1, (os.cpu_count() or 1) // sweep.jobs) if sweep.jobs > 1 else None
    return [Slot(threads=threads)] * sweep.jobs


def _show(
    chosen: Sequence[Run], todo: Mapping[str, tuple[Run, State]], slots: Sequence[Slot], program: Sequence[str]
) -> None:
    finished = [run for run in chosen if run.name not in todo]
    print(f"# {len(todo)} runs to do, {len(finished)} of {len(chosen)} finished before")
    if slots[0].devices is not None:
        print(f"# one at a time on each of the GPUs {'; '.join(str(slot.devices) for slot in slots)}")
    for run, state in todo.values():
        print(f"# {run.name}{' (begun before)' if state == 'begun' else ''}")
        print(shlex.join(command_of(run, slots[0], program)))


def _table(
    sweep: Sweep, planned: Sequence[Run], outcomes: Mapping[str, Outcome], *, keep: bool
) -> tuple[str, dict[str, Any]]:
    """The table of all that is finished, as text and for ``sweep.json``."""
    found: list[tuple[Run, list[Result]]] = []
    for run in planned:
        # Runs that were left out now may be there from earlier, but not if they were made with something else.
        with contextlib.suppress(UserError):
            if state_of(run, keep=keep) == "finished":
                found.append((run, results_of(run)))
    datasets = list(dict.fromkeys(run.dataset for run in planned))
    rows = rows_of(found, planned)
    failed = failures(outcomes)
    parts = [markdown(rows, datasets)]
    parts += [f"{len(found)} of {len(planned)} runs are finished."] if len(found) < len(planned) else []
    parts += ["Failed:\n\n" + "\n".join(failed)] if failed else []
    text = "\n\n".join(parts) + "\n"
    told = [
        {"name": run.name, "folder": str(run.folder), "state": _state(run, found, outcomes), **_of(run, outcomes)}
        for run in planned
    ]
    fits = {run.needs.name: run.needs for run in planned if run.needs and run.needs.name in outcomes}
    told += [
        {"name": run.name, "folder": str(run.folder), "state": outcomes[run.name].state, **_of(run, outcomes)}
        for run in fits.values()
    ]
    contents = {"format": 1, "command": sweep.command, "datasets": datasets, "rows": as_json(rows, datasets)}
    return text, {**contents, "runs": told}


def _write(sweep: Sweep, text: str, contents: Mapping[str, Any]) -> None:
    replace(sweep.out / "sweep.json", json.dumps(contents, indent=2) + "\n")
    replace(sweep.out / "sweep.md", text)


def _state(run: Run, found: Sequence[tuple[Run, list[Result]]], outcomes: Mapping[str, Outcome]) -> str:
    if any(run is each for each, _ in found):
        return "finished"
    return outcomes[run.name].state if run.name in outcomes else "not finished"


def _of(run: Run, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What is known of a run that this sweep has done itself."""
    outcome = outcomes.get(run.name)
    if outcome is None:
        return {}
    return {"seconds": round(outcome.seconds, 1), **({"reason": outcome.reason} if outcome.reason else {})}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[tuple[int, ...]]:
    """Keep other sweeps out of a folder; yields descriptors that runs inherit.

    A run that outlives its sweep, which only a kill of the sweep can cause, so keeps the folder as well.

    Raises:
        UserError: If another one is there, or the folder cannot be made.
    """
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


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
