"""Where the relative paths of a run's configuration lead, for a report that is made in another folder."""

import os
from pathlib import Path
from typing import Any, Final

from lorattt.report.runs import Run

_FILES: Final = ("root", "data_root", "path", "splits", "items", "class_names")
"""Of the data's arguments, those that name a file or a folder."""


def bases(run: Run) -> list[Path]:
    """The folders from which relative paths may count, the most trusted first, each once.

    The folder in which the run was started comes first, as the place of the run's own folder tells it, which is right
    for a project that was moved as a whole; then as ``results.json`` has it; then the current folder.
    """
    home = _started_in(run)
    stated = run.results.get("directory")
    found = [*([home] if home else []), *([Path(stated)] if isinstance(stated, str) else []), Path.cwd()]
    return list(dict.fromkeys(found))


def _started_in(run: Run) -> Path | None:
    """What is left of the run's folder without the relative path by which its configuration names it."""
    stated = run.config.get("run")
    stated = stated if isinstance(stated, dict) else {}
    folder = (run.folder.parent if run.is_member else run.folder).resolve()
    below = Path(str(stated.get("folder") or stated.get("root") or ""))
    if not stated.get("folder"):
        folder = folder.parents[2] if len(folder.parents) > 2 else folder  # the root's method, dataset and number
    count = len(below.parts)
    if not count or below.is_absolute() or ".." in below.parts or folder.parts[-count:] != below.parts:
        return None
    return folder.parents[count - 1]


def lead(run: Run, path: str) -> Path:
    """A path of the configuration, from the first folder where it exists; as it is if there is none."""
    given = Path(path).expanduser()
    return next((base / given for base in bases(run) if os.path.exists(base / given)), given)


def data_of(run: Run) -> tuple[str, dict[str, Any]]:
    """The class of the run's data, without its module, and the arguments, whose paths lead to where they exist."""
    data = run.config.get("data")
    data = data if isinstance(data, dict) else {}
    stated = data.get("init_args")
    arguments = dict(stated) if isinstance(stated, dict) else {}
    for key in _FILES:
        if isinstance(arguments.get(key), str):
            arguments[key] = str(lead(run, arguments[key]))
    return str(data.get("class_path", "")).rpartition(".")[2], arguments


def seen_from(run: Run) -> str:
    """The folders of :func:`bases`, for a message."""
    return ", ".join(map(str, bases(run)))
