"""Resolve the relative paths in a run's configuration, for a report made in another folder."""

import os
from pathlib import Path
from typing import Any, Final

from lorattt.report.runs import Run

_FILES: Final = ("root", "data_root", "path", "splits", "items", "class_names")
"""Of the data's arguments, those that name a file or a folder."""
_BUILT_IN_LIST: Final = "imagenet"  # of class_names, see data.class_names, which needs torch


def bases(run: Run) -> list[Path]:
    """The folders that relative paths may start from, the most trusted first, each once.

    First the folder in which the run was started: as the place of the run's own folder shows it, which is right even
    for a project that was moved as a whole, then as in ``results.json``. Then the current folder.
    """
    home = _started_in(run)
    stated = run.results.get("directory")
    found = [*([home] if home else []), *([Path(stated)] if isinstance(stated, str) else []), Path.cwd()]
    return list(dict.fromkeys(found))


def _started_in(run: Run) -> Path | None:
    """The run's folder without the relative path that its configuration has for it; None if that does not fit."""
    stated = run.configured("run")
    folder = run.home.resolve()
    below = Path(str(stated.get("folder") or stated.get("root") or ""))
    if not stated.get("folder"):
        folder = folder.parents[2] if len(folder.parents) > 2 else folder  # the root's method, dataset and number
    count = len(below.parts)
    if not count or below.is_absolute() or ".." in below.parts or folder.parts[-count:] != below.parts:
        return None
    return folder.parents[count - 1]


def lead(run: Run, path: str) -> Path:
    """A path of the configuration, below the first folder where it exists; unchanged if there is none."""
    given = Path(path).expanduser()
    return next((base / given for base in bases(run) if os.path.exists(base / given)), given)


def data_of(run: Run) -> tuple[str, dict[str, Any]]:
    """The class of the run's data, without its module, and its arguments, with resolved paths."""
    arguments = dict(run.configured("data", "init_args"))
    for key in _FILES:
        named = key == "class_names" and arguments.get(key) == _BUILT_IN_LIST
        if isinstance(arguments.get(key), str) and not named:
            arguments[key] = str(lead(run, arguments[key]))
    return str(run.configured("data").get("class_path", "")).rpartition(".")[2], arguments


def seen_from(run: Run) -> str:
    """The folders of :func:`bases`, for a message."""
    return ", ".join(map(str, bases(run)))
