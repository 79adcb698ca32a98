"""``metrics.csv`` in the run's own folder, and what a logger needs to write there.

Lightning touches its loggers before any callback is set up, while the folder of a run is chosen by one. So ours wait:
until :meth:`InRunFolder.place` names the folder there is nothing to write to. On devices other than the first they
write nothing.
"""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lorattt.callbacks.journal import saving
from lorattt.callbacks.merge import replaced
from lorattt.errors import UserError

METRICS_FILE: Final = "metrics.csv"
FIT: Final = "fit"
COMMANDS: Final = ("test", "validate", "predict")
"""What their values begin with, before a slash; all others are of a fit."""

_FIRST: Final = ("epoch", "step")


class InRunFolder:
    """What the loggers here have beside Lightning's interface."""

    def place(self, folder: Path) -> None:
        """Begin to write below this folder, which exists; on the first device alone."""
        raise NotImplementedError

    def begins(self, command: str, step: int) -> None:
        """Values of a command from a step on are about to be logged, perhaps not for the first time."""

    def close_run(self, settings: Mapping[str, Any], values: Mapping[str, float], step: int) -> None:
        """The run has ended with these values, under these settings."""


class RunCSV(InRunFolder, Logger):
    """``metrics.csv`` in the run's folder: a row for each time something is logged.

    The columns are ``epoch`` and ``step``, then the values in the order in which they first occurred; what a row does
    not say is empty. Rows of earlier attempts in the folder stay, but for those whose steps are done again. The
    configuration is not repeated: ``config.yaml`` stands beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file: Path | None = None
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """Nothing: the folder has the name."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: the folder has the number."""
        return ""

    @property
    def save_dir(self) -> str | None:
        """The run's folder, once it is known."""
        return None if self._file is None else str(self._file.parent)

    @property
    def log_dir(self) -> str | None:
        """The run's folder, once it is known."""
        return self.save_dir

    def place(self, folder: Path) -> None:
        """Write into this folder; lines that an earlier attempt did not finish or a crash damaged are left out.

        Raises:
            UserError: If ``metrics.csv`` is there and cannot be read or mended.
        """
        self._file = folder / METRICS_FILE
        self._columns = []
        if self._file.exists():
            lines = len(self._text().splitlines()) - 1
            if damaged := lines - self._keep(lambda row: True):
                print(f"{self._file}: {damaged} damaged or unfinished lines are left out")

    def begins(self, command: str, step: int) -> None:
        """Drop the rows that are about to be written again.

        Raises:
            UserError: If the disk fails.
        """
        if self._file is not None and self._columns:
            self._keep(lambda row: _command_of(row) != command or (command == FIT and int(row["step"]) < step))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; it is with the operating system on return.

        Raises:
            UserError: If the disk is full or fails.
        """
        if self._file is None:
            return
        row = {**metrics, "step": 0 if step is None else step}
        new = [key for key in row if key not in self._columns]
        if new:
            known = [key for key in _FIRST if key in {*self._columns, *row}]
            rest = [key for key in (*self._columns, *new) if key not in _FIRST]
            rows = self._read() if self._columns else []
            self._columns = [*known, *rest]
            self._write([*rows, row])
            return
        with saving(self._file, self._file.parent), self._file.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _keep(self, wanted: Callable[[dict[str, str]], bool]) -> int:
        """Leave those rows that are wanted, of those that are whole; how many these are."""
        assert self._file is not None
        text = self._text()
        rows = [row for row in self._read() if wanted(row)]
        columns = [key for key in self._columns if key in _FIRST or any(row[key] for row in rows)]
        if columns != self._columns or len(rows) != text.count("\n") - 1 or not text.endswith("\n"):
            self._columns = columns
            self._write(rows)
        return len(rows)

    def _text(self) -> str:
        assert self._file is not None
        with saving(self._file, self._file.parent):
            return self._file.read_bytes().decode("utf-8", "replace")

    def _read(self) -> list[dict[str, str]]:
        """The whole rows of the file, whose header says the columns; those before a damaged one where one is."""
        lines = self._text().splitlines(keepends=True)
        header = _cells(lines[0]) if lines else []
        if "step" not in header:
            raise UserError(f"{self._file}: is no table of lorattt: name another run.folder, or remove the file")
        self._columns = header
        rows = []
        for line in lines[1:]:
            cells = _cells(line)
            row = dict(zip(header, cells, strict=False))
            if len(cells) == len(header) and line.endswith("\n") and row["step"].isdecimal():
                rows.append(row)
        return rows

    def _write(self, rows: list[Any]) -> None:
        assert self._file is not None
        with saving(self._file, self._file.parent), replaced(self._file) as file:
            table = csv.DictWriter(file, self._columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)


def _cells(line: str) -> list[str]:
    """A line's fields; none of a line that is no CSV, or has the NUL bytes that a power failure leaves."""
    if "\0" in line:  # Python 3.10's reader raises for it, later ones take it
        return []
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _command_of(row: Mapping[str, str]) -> str:
    """Which command logged a row."""
    said = (key.partition("/")[0] for key, value in row.items() if value and key not in _FIRST)
    return next((command for command in said if command in COMMANDS), FIT)
