"""Write the files of a report: each whole or not at all, and only over files of an earlier report."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lorattt.errors import UserError
from lorattt.report.render import KIND, LATEX_MARK, MARKDOWN_MARK

PLOTS: Final = "plots"
_BEGINNING: Final = 4096  # bytes that contain a picture's creator


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files, and remove plots of an earlier report that this one does not have.

    Args:
        folder: Where; created if needed.
        contents: By path below the folder.

    Raises:
        UserError: If the folder cannot be made or written, or a file there is not one of a report.
    """
    for name in contents:
        _check_ours(folder / name)
    written = []
    try:
        for name, content in contents.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f".{file.name}.{os.getpid()}")
            new.write_bytes(content)
            new.replace(file)
            written.append(file)
        if any(name.startswith(f"{PLOTS}/") for name in contents):
            for file in sorted((folder / PLOTS).iterdir()):
                if file not in written and file.suffix in (".png", ".svg") and _is_ours(file):
                    file.unlink()
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be written ({error.strerror or error}): name another folder"
        ) from error
    return written


def _check_ours(file: Path) -> None:
    if os.path.lexists(file) and not _is_ours(file):
        raise UserError(f"{file}: is not a report of lorattt, and is not overwritten: name another --out, or remove it")


def _is_ours(file: Path) -> bool:
    try:
        if file.suffix in (".png", ".svg"):
            with file.open("rb") as opened:
                return KIND.encode() in opened.read(_BEGINNING)
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            found = json.loads(text)
            return isinstance(found, dict) and found.get("kind") == KIND
    except (OSError, ValueError):
        return False
    return text.removeprefix("<!DOCTYPE html>\n").startswith((MARKDOWN_MARK, LATEX_MARK))
