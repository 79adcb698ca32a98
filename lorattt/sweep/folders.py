"""What is on disk of a run: whether it is finished, made by another command line, or of somebody else."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorattt.errors import UserError
from lorattt.sweep.plan import FIT, Run

COMMAND_FILE = "command.json"
LOG_FILE = "log.txt"
State = Literal["new", "begun", "finished"]
_JOURNALS = "journal.rank*.jsonl"
# What a run leaves before its first result; of these alone nothing is lost.
_LIGHT = {COMMAND_FILE, LOG_FILE, "config.yaml", "images.tsv"}


@dataclass(frozen=True)
class Result:
    """What one method of a run measured.

    Attributes:
        member: The method's name among several of a run; empty if it is the only one.
        n: Images.
        before: Top-1 without adaptation, as a fraction; None where nothing is labelled.
        after: Top-1.
        seconds: Time of the images.
    """

    member: str
    n: int
    before: float | None
    after: float | None
    seconds: float


def state_of(run: Run, *, keep: bool = False, redo: bool = False) -> State:
    """What is there of a run.

    Args:
        run: The run.
        keep: Take a finished run as it is, whatever it was made with.
        redo: Take a run that was made with something else for a new one.

    Raises:
        UserError: If it was made with something else and neither says what to do, or by no sweep at all.
    """
    if not run.folder.is_dir() or not any(run.folder.iterdir()):
        return "new"
    written = _command_of(run)
    state: State = "finished" if _is_finished(run, written) else "begun"
    if differences := _differences(written["settings"], dict(run.settings)):
        if state == "finished" and keep:
            return state
        if redo or (state == "begun" and not _holds_work(run)):
            return "new"
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        fix = "--redo runs it again" + (", --keep leaves it as it is" if state == "finished" else " from the start")
        raise UserError(f"{run.folder} was made with other settings: {'; '.join(differences[:3])}{more}; {fix}")
    return state


def prepare(run: Run, state: State) -> None:
    """Make the folder; what a new run finds there is removed.

    Raises:
        OSError: If the folder cannot be made.
        UserError: If it holds files of no sweep.
    """
    if state == "new" and run.folder.is_dir() and any(run.folder.iterdir()):
        _command_of(run)  # only what a sweep has made is removed
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)


def note(run: Run, command: list[str], *, finished: bool) -> None:
    """Leave in the folder what the run is made with, and whether it has ended well.

    Raises:
        OSError: If the file cannot be written.
    """
    contents = {"command": command, "finished": finished, "settings": dict(run.settings)}
    replace(run.folder / COMMAND_FILE, json.dumps(contents, indent=2) + "\n")


def results_of(run: Run) -> list[Result]:
    """What a finished run measured: a row for each of its methods; none of a fit.

    Raises:
        UserError: If a file of results is missing or damaged.
    """
    if run.command == FIT:
        return []
    if not (files := _results_files(run)):
        raise UserError(f"{run.folder} has no {run.product}")
    return [_result(run, path, path.parent.name if len(files) > 1 else "") for path in files]


def _result(run: Run, path: Path, member: str) -> Result:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        before, after = (None if row.get(key) is None else float(row[key]) for key in ("top1_before", "top1_after"))
        n, speed = int(row["n"]), float(row["images_per_second"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: remove the folder {run.folder} to run it again") from None
    return Result(member, n, before, after, n / speed if speed > 0 else math.nan)


def _results_files(run: Run) -> list[Path]:
    """In the order of ``model.methods``; format 1 had that of the only method in the run's folder."""
    order: list[str] = []
    for place, value in run.settings.items():
        if place.endswith(("model.methods", "model.init_args.methods")) and isinstance(value, list):
            order = order or value
    ranks = {name: rank for rank, name in enumerate(order)}
    files = [*run.folder.glob(run.product), *run.folder.glob(f"*/{run.product}")]
    return sorted(files, key=lambda p: (ranks.get(p.parent.name, len(ranks)), p))


def _is_finished(run: Run, written: dict[str, Any]) -> bool:
    if run.command == FIT:
        return (run.folder / run.product).exists()
    # A run removes its journals when all of its files are written, those of each of several methods too.
    ended = written["finished"] is True or not any(path.stat().st_size for path in run.folder.glob(_JOURNALS))
    return ended and bool(_results_files(run))


def _holds_work(run: Run) -> bool:
    return any(
        path.is_file() and path.stat().st_size > 0 and path.name not in _LIGHT and path.suffix not in (".lock", ".part")
        for path in run.folder.rglob("*")
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"{place} is {_shown(new, place)}, was {_shown(old, place)}"
        for place in dict.fromkeys([*new, *old])
        if place not in old or place not in new or old[place] != new[place]
    ]


def _shown(settings: dict[str, Any], place: str) -> str:
    text = json.dumps(settings[place], ensure_ascii=False) if place in settings else "not given"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _command_of(run: Run) -> dict[str, Any]:
    path = run.folder / COMMAND_FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{run.folder} holds files that no sweep made: name another out, or remove it") from None
    except (OSError, ValueError):
        written = None
    if not isinstance(written, dict) or not isinstance(written.get("settings"), dict) or "finished" not in written:
        raise UserError(f"{path} is damaged: remove the folder {run.folder} to run it again")
    return written


def replace(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written.

    Raises:
        OSError: If it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
