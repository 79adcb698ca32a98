"""``results.json`` read back: every value of its kind, or one line that names the file and the key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lorattt.errors import UserError, one_line, quoted, shortened
from lorattt.inputs import read_text
from lorattt.report.predictions import RESTORE

FORMAT: Final = 2
"""The newest ``format`` of ``results.json`` that is understood; files without the key are of format 1."""
_NUMBER: Final = (int, float)
STATED: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("method", "dataset", "backbone"), (str,)),
    **dict.fromkeys(("n", "peak_memory_bytes", "seed", "fallbacks", "skipped"), (int,)),
    "images_per_second": _NUMBER,
}
_CORRUPTION: Final[dict[str, tuple[type, ...]]] = {"name": (str,), "severity": (int,), "of": (str,)}


def is_measure(key: str) -> bool:
    """Whether a key's value is a fraction or likelihood, null for answers that are not finite."""
    return key.endswith(("_before", "_after"))


def read_results(file: Path) -> dict[str, Any]:
    """What ``results.json`` holds.

    Raises:
        UserError: If the file is damaged, of a newer lorattt, lacks a key, or has a value of another kind.
    """
    try:
        row = json.loads(read_text(file, RESTORE))
    except ValueError as error:
        raise UserError(f"{file}: damaged JSON ({shortened(one_line(error), 200)}): {RESTORE}") from error
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
    _check(
        file, row, {**STATED, **{key: _NUMBER for key, value in row.items() if is_measure(key) and value is not None}}
    )
    if row.get("corruption") is not None:
        if not isinstance(row["corruption"], dict):
            raise UserError(f"{file}: corruption is no object: run again")
        _check(file, row["corruption"], _CORRUPTION, "corruption.")
    bins = row.get("ece_bins", 1)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise UserError(f"{file}: ece_bins is {quoted(bins, 60)}, not a number of bins: run again")
    return row


def _check(file: Path, row: Mapping[str, Any], stated: Mapping[str, tuple[type, ...]], above: str = "") -> None:
    missing = [above + key for key in stated if key not in row]
    if missing:
        raise UserError(f"{file}: has no {', '.join(missing)}: written by another version of lorattt, or edited")
    for key, kinds in stated.items():
        if isinstance(row[key], bool) or not isinstance(row[key], kinds):
            raise UserError(
                f"{file}: {above}{key} is {quoted(row[key], 60)}, not of type {kinds[-1].__name__}: run again"
            )
