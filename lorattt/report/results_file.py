"""``results.json`` read back: every value of its kind, or one line that names the file and the key."""

import json
from pathlib import Path
from typing import Any, Final

from lorattt.errors import UserError, one_line, quoted, shortened

FORMAT: Final = 2
"""The newest ``format`` of ``results.json`` that is understood; files without the key are of format 1."""

STATED: Final[dict[str, tuple[type, ...]]] = {
    "method": (str,),
    "dataset": (str,),
    "backbone": (str,),
    "n": (int,),
    "images_per_second": (int, float),
    "peak_memory_bytes": (int,),
    "seed": (int,),
    "fallbacks": (int,),
    "skipped": (int,),
}
CORRUPTION: Final[dict[str, tuple[type, ...]]] = {"name": (str,), "severity": (int,), "of": (str,)}


def read_results(file: Path) -> dict[str, Any]:
    """What ``results.json`` holds.

    Raises:
        UserError: If the file is damaged, of a newer lorattt, lacks a key, or has a value of another kind.
    """
    try:
        row = json.loads(read_text(file))
    except ValueError as error:
        raise UserError(
            f"{file}: damaged JSON ({shortened(one_line(error), 200)}): restore the file, or run again"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{file}: not a results.json of lorattt: it holds no object")
    written = row.get("format", 1)
    if not isinstance(written, int) or written > FORMAT:
        versions = row.get("versions")
        version = versions.get("lorattt", "unknown") if isinstance(versions, dict) else "?"
        raise UserError(
            f"{file}: format {shortened(str(written), 60)} of lorattt {shortened(str(version), 60)}, this one reads "
            f"up to {FORMAT}: install that lorattt"
        )
    _check(file, row, STATED)
    if row.get("corruption") is not None:
        if not isinstance(row["corruption"], dict):
            raise UserError(f"{file}: corruption is no object: run again")
        _check(file, row["corruption"], CORRUPTION, "corruption.")
    bins = row.get("ece_bins", 1)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise UserError(f"{file}: ece_bins is {quoted(bins, 60)}, not a number of bins: run again")
    for key, value in row.items():
        if not key.endswith(("_before", "_after")) or value is None:  # a measure of answers that are not finite
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{file}: {key} is {quoted(value, 60)}, not a number: run again")
    return row


def _check(file: Path, row: dict[str, Any], stated: dict[str, tuple[type, ...]], above: str = "") -> None:
    missing = [above + key for key in stated if key not in row]
    if missing:
        raise UserError(f"{file}: has no {', '.join(missing)}: written by another version of lorattt, or edited")
    for key, kinds in stated.items():
        if isinstance(row[key], bool) or not isinstance(row[key], kinds):
            raise UserError(
                f"{file}: {above}{key} is {quoted(row[key], 60)}, not of type {kinds[-1].__name__}: run again"
            )


def read_text(file: Path) -> str:
    """A file's text.

    Raises:
        UserError: If it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 (byte {error.start}): restore the file, or run again") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
