"""``metrics.csv`` in the run's folder.

Lightning uses its loggers before any callback is set up, but a callback chooses the run's folder. So loggers that write
there have a method ``place`` and write nothing until ``RunLog`` calls it, on the first device alone.

Lightning's CSVLogger is no base for this one: it deletes the rows of earlier attempts, and rewrites the file in place.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lorattt.callbacks.journal import saving
from lorattt.callbacks.merge import atomic_write
from lorattt.errors import UserError

METRICS_FILE: Final = "metrics.csv"
FIT: Final = "fit"

_COMMANDS: Final = ("test/", "validate/", "predict/")  # values of other prefixes belong to a fit
_FIRST: Final = ("epoch", "step")


class RunCSV(Logger):
    """``metrics.csv`` in the run's folder: a row for each time something is logged.

    The columns are ``epoch`` and ``step``, then the values in the order in which they first occurred; missing values
    are empty. Rows of earlier attempts stay, except those of steps that are done again.
    """

    name = version = ""  # the folder has both

    def __init__(self) -> None:
        super().__init__()
        self._file: Path | None = None
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []

    @property
    def save_dir(self) -> str | None:
        """The run's folder, once it is known."""
        return None if self._file is None else str(self._file.parent)

    def place(self, folder: Path) -> None:
        """Write into this folder; lines that an earlier attempt did not finish or a crash damaged are left out."""
        self._file, self._columns, self._rows = folder / METRICS_FILE, [], []
        if not self._file.exists():
            return
        with saving(self._file):
            text = self._file.read_bytes().decode("utf-8", "replace")
        header, *lines = text.splitlines(keepends=True) or [""]
        self._columns = _cells(header)
        if "step" not in self._columns:
            raise UserError(f"{self._file}: is no table of lorattt: name another run.folder, or remove the file")
        rows = [_row(self._columns, line) for line in lines]
        self._replace([row for row in rows if row])
        if damaged := len(rows) - len(self._rows):
            print(f"{self._file}: {damaged} damaged or unfinished lines are left out")

    def start_command(self, command: str, step: int) -> None:
        """Drop the rows of an earlier attempt that will be logged again: of a fit from this step on, else all."""
        again = [_command_of(row) == command and (command != FIT or int(row["step"]) >= step) for row in self._rows]
        kept = [row for row, dropped in zip(self._rows, again, strict=True) if not dropped]
        if len(kept) < len(self._rows):
            self._replace(kept)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: they are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; it is with the operating system on return."""
        if self._file is None:
            return
        row = {**metrics, "step": step or 0}
        if not row.keys() <= {*self._columns}:
            self._replace([*self._rows, row])
            return
        self._rows.append(row)
        with saving(self._file), self._file.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        """Write the file anew with these rows and the columns that they need."""
        assert self._file is not None
        named = dict.fromkeys([*self._columns, *(key for row in rows for key in row)])
        used = [key for key in named if key not in _FIRST and any(key in row for row in rows)]
        self._columns, self._rows = [*(key for key in _FIRST if key in named), *used], rows
        with saving(self._file), atomic_write(self._file) as file:
            table = csv.DictWriter(file, self._columns)
            table.writeheader()
            table.writerows(rows)


def _cells(line: str) -> list[str]:
    """A line's fields; none if it is not CSV, or has the NUL bytes that a power failure leaves."""
    if "\0" in line:  # Python 3.10's reader raises for it, later ones take it
        return []
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _row(columns: list[str], line: str) -> dict[str, Any]:
    """The values of a line that are not missing; empty for a damaged or unfinished line."""
    cells = _cells(line)
    row = {key: value for key, value in zip(columns, cells, strict=False) if value}
    whole = len(cells) == len(columns) and line.endswith("\n") and row.get("step", "").isdecimal()
    return row if whole else {}


def _command_of(row: Mapping[str, Any]) -> str:
    """The command that logged a row."""
    return next((key.partition("/")[0] for key in row if key.startswith(_COMMANDS)), FIT)
