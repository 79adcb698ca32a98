"""The folder of a run: whether the run is finished, of other settings, or not of a sweep; and what it measured."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from lorattt.errors import UserError
from lorattt.show import speed
from lorattt.sweep.plan import FIT, PROMPT_FILE, Run

COMMAND_FILE = "command.json"
LOG_FILE = "log.txt"
State = Literal["new", "begun", "finished"]
_RESULTS = "results.json"
# What a run leaves before its first result; of these alone nothing is lost.
_LIGHT = {COMMAND_FILE, LOG_FILE, "config.yaml", "images.tsv"}


def state_of(run: Run, *, keep: bool = False, redo: bool = False) -> State:
    """Whether a run is new, begun or finished.

    One of other settings is an error, unless it is finished and ``keep`` takes it as it is, or ``redo`` takes it for
    a new one.
    """
    if not run.folder.is_dir() or not any(run.folder.iterdir()):
        return "new"
    written = _read_command(run)
    state: State = "finished" if _is_finished(run, written["finished"]) else "begun"
    differences = _differences(written["settings"], dict(run.settings))
    if not differences or (state == "finished" and keep):
        return state
    if redo or (state == "begun" and not _holds_work(run)):
        return "new"
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    fix = "--redo runs it again" + (", --keep leaves it as it is" if state == "finished" else " from the start")
    raise UserError(f"{run.folder} was made with other settings: {'; '.join(differences[:3])}{more}; {fix}")


def prepare(run: Run, state: State) -> None:
    """Make the folder; a new run replaces an earlier one, but no files that are not of a sweep."""
    if state == "new" and run.folder.is_dir() and any(run.folder.iterdir()):
        _read_command(run)
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)


def note(run: Run, command: list[str], *, finished: bool) -> None:
    """Write the command and the settings of a run into its folder, and whether it has ended well."""
    contents = {"command": command, "finished": finished, "settings": dict(run.settings)}
    part = run.folder / f"{COMMAND_FILE}.part"  # so that the file is never seen half written
    part.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    os.replace(part, run.folder / COMMAND_FILE)


def measured(run: Run) -> list[str]:
    """Accuracy and speed of a finished run, as texts; none of a fit. A file that is missing or damaged is an error."""
    if run.command == FIT:
        if not (run.folder / PROMPT_FILE).exists():
            raise UserError(f"ended without {PROMPT_FILE}; remove {run.folder} to fit again")
        return []
    rows = {path.parent.name: _numbers(run, path) for path in _results(run)}
    if not rows:
        raise UserError(f"{run.folder} has no {_RESULTS}")
    first = next(iter(rows.values()))
    texts = [f"{first['n']:.0f} images"]
    after = {name: f"{100 * row['top1_after']:.2f}" for name, row in rows.items() if "top1_after" in row}
    if "top1_before" in first and after:
        shown = after.values() if len(rows) == 1 else (f"{name} {value}" for name, value in after.items())
        texts = [f"top-1 {100 * first['top1_before']:.2f} -> {', '.join(shown)} %"]
    rate = first["images_per_second"]
    return [*texts, f"{speed(rate)} images/s"] if rate > 0 else texts


def _numbers(run: Run, path: Path) -> dict[str, float]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        known = [key for key in ("top1_before", "top1_after") if row.get(key) is not None]
        return {key: float(row[key]) for key in ("n", "images_per_second", *known)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: remove the folder {run.folder} to run it again") from None


def _results(run: Run) -> list[Path]:
    """In the order of ``model.methods``; in format 1, that of the only method lay in the run's folder."""
    lists = [value for place, value in run.settings.items() if place.endswith(".methods") and isinstance(value, list)]
    rank = {name: number for number, name in enumerate(lists[0] if lists else ())}
    files = [*run.folder.glob(_RESULTS), *run.folder.glob(f"*/{_RESULTS}")]
    return sorted(files, key=lambda path: (rank.get(path.parent.name, len(rank)), path))


def _is_finished(run: Run, noted: bool) -> bool:
    if run.command == FIT:
        return (run.folder / PROMPT_FILE).exists()
    # A run removes its journals when all of its files are written, those of each of several methods too.
    ended = noted or not any(path.stat().st_size for path in run.folder.glob("journal.rank*.jsonl"))
    return ended and bool(_results(run))


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


def _read_command(run: Run) -> dict[str, Any]:
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
