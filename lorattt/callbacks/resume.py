"""Whether a run may resume in a folder: compares the folder's configuration with the one that is given."""

import json
from pathlib import Path
from typing import Any

import yaml

from lorattt.callbacks.journal import journals_in, of_format_1
from lorattt.callbacks.results import table_of
from lorattt.callbacks.run_folder import CONFIG_FILE, reject_used, results_in
from lorattt.callbacks.run_log import as_typed, in_json
from lorattt.errors import UserError
from lorattt.settings import affects_results, dotted

_MOST = 5  # differences that are shown
_WIDTH = 60  # characters of a value that are shown


class RunFinishedError(Exception):
    """Raised when the run is already finished; the message shows its results."""


def check_folder(folder: Path, config: str) -> None:
    """Compare the folder's configuration with the given one, in YAML, before anything is loaded.

    Raises:
        UserError: If the folder holds a run of another or an unknown configuration, or of an earlier version.
        RunFinishedError: If it holds the same run, finished.
    """
    results, journals = results_in(folder), journals_in(folder)
    if not (results or journals):
        return
    try:
        there = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        there = None
    if not isinstance(there, dict):
        reject_used(folder)
    if of_format_1(folder):
        raise UserError(
            f"run.folder {folder} holds an unfinished run of an earlier version of lorattt: finish it with that "
            "version, or name another run.folder"
        )
    here = yaml.safe_load(config)
    if different := differences(there, here):
        shown = "; ".join(different[:_MOST]) + (f"; and {len(different) - _MOST} more" * (len(different) > _MOST))
        raise UserError(
            f"run.folder {folder} holds a run of another configuration ({shown}): name another run.folder, "
            "or remove this one"
        )
    if results and not journals:
        order = here.get("model", {}).get("init_args", {}).get("methods") or []
        results.sort(key=lambda file: order.index(file.parent.name) if file.parent.name in order else 0)
        table = table_of([_row(file, folder) for file in results], folder)
        raise RunFinishedError(f"{table} by a run that is finished: nothing to do")


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The differences between two configurations that affect predictions or their files, a text for each key.

    A missing key counts as null: later versions have keys that earlier ones did not have.
    """
    one, other = dotted(there), dotted(here)
    return [
        f"{as_typed(key)}: {_shown(one, key)} there, {_shown(other, key)} now"
        for key in dict.fromkeys([*one, *other])
        if affects_results(key.split(".")) and one.get(key) != other.get(key)
    ]


def _shown(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    text = values[key] if isinstance(values[key], str) else in_json(values[key])
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _row(path: Path, folder: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        table_of([row], folder)
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = f"damaged ({type(error).__name__})"
        raise UserError(f"{path}: {reason}: name another run.folder, or remove this one") from error
    return row
