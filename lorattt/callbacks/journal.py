"""The journal of a run: a line per batch, appended as it is done, from which a run that died resumes.

Each device appends to ``journal.rank<r>.jsonl`` in the run's folder. A line is a JSON list, an entry per image. A line
that was cut short does not count: its batch is done again.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lorattt.errors import UserError

PATTERN = "journal.rank*.jsonl"
SYNC_SECONDS = 30.0


class Place(NamedTuple):
    """Where the entry of an image is, and what is read of it often."""

    file: Path
    offset: int  # of the line of its batch, in bytes
    number: int  # in the batch
    path: str  # the image's name in results
    right: tuple[bool, bool] | None  # the last method's answers before and after; None if the label is not known


@dataclass
class Journals:
    """The images in the journals of a folder, of all devices and attempts, by dataset-wide number."""

    done: dict[int, Place] = field(default_factory=dict)
    bad: dict[int, Place] = field(default_factory=dict)  # could not be read, and were not classified later
    dropped: int = 0  # lines that are damaged or unfinished


class Journal:
    """One device's journal, open for appending; an unfinished line at its end is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = time.monotonic()
        with saving(path):
            self._file = path.open("ab", buffering=0)
            self._file.truncate(_read(path, Journals()))

    def append(self, entries: list[dict[str, Any]]) -> None:
        """Write a batch. The operating system has it on return, the disk within 30 s or a batch."""
        left = memoryview((json.dumps(entries) + "\n").encode("ascii"))
        with saving(self.path):
            while left:
                left = left[self._file.write(left) :]
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        """Flush it to the disk and close it."""
        with saving(self.path), self._file:
            os.fsync(self._file.fileno())

    def abandon(self) -> None:
        """Close it after a failure, which is reported elsewhere."""
        with suppress(OSError):
            self._file.close()


def journal_path(folder: Path, rank: int) -> Path:
    """The journal of a device."""
    return folder / PATTERN.replace("*", str(rank))


def journals_in(folder: Path) -> list[Path]:
    """The journals of a folder that are not empty."""
    return sorted(path for path in folder.glob(PATTERN) if path.stat().st_size)


def of_format_1(folder: Path) -> bool:
    """Whether an earlier version wrote the journals: the only method has an empty name, or each image a line."""
    for path in journals_in(folder):
        with path.open("rb") as lines:  # all lines of a file are alike, but the first may be damaged
            if any(line.startswith(b"{") or b'"answers": {"":' in line for line in islice(lines, 3)):
                return True
    return False


def remove_journals(folder: Path) -> None:
    """Remove the journals of a folder, empty ones too."""
    for path in folder.glob(PATTERN):
        path.unlink(missing_ok=True)


def read_journals(folder: Path) -> Journals:
    """Find the entries of all journals of a folder."""
    found = Journals()
    for path in journals_in(folder):
        _read(path, found)
    for index in found.bad.keys() & found.done.keys():  # it could be read in a later attempt
        del found.bad[index]
    return found


def entries_at(places: Iterable[Place]) -> Iterator[dict[str, Any]]:
    """Read entries, one at a time; of each journal, the last batch is kept in memory."""
    with ExitStack() as files:
        opened: dict[Path, Any] = {}
        batches: dict[Path, tuple[int, list[dict[str, Any]]]] = {}
        for file, offset, number, *_ in places:
            if file not in opened:
                opened[file] = files.enter_context(file.open("rb"))
            if file not in batches or batches[file][0] != offset:
                opened[file].seek(offset)
                batches[file] = offset, _entries(opened[file].readline())
            yield batches[file][1][number]


@contextmanager
def saving(path: Path, folder: Path | None = None) -> Iterator[None]:
    """Turn a failure to write ``path`` into a line for the user; the run's folder is the one above by default."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): make room or fix the disk, then give the same command "
            f"with --run.folder {folder or path.parent}; what was written is kept"
        ) from error


def _read(path: Path, found: Journals) -> int:
    """Add the entries of one journal; the length up to the end of its last whole line."""
    end = offset = 0
    with path.open("rb") as file:
        for line in file:
            entries = _entries(line)
            for number, entry in enumerate(entries):
                places = found.bad if "reason" in entry else found.done
                places[entry["index"]] = Place(path, offset, number, entry["path"], _right(entry))
            offset += len(line)
            end = offset if entries else end
            found.dropped += not entries
    return end


def _entries(line: bytes) -> list[dict[str, Any]]:
    """The entries of a line; none if it is damaged or unfinished."""
    try:
        entries: list[dict[str, Any]] = json.loads(line) if line.endswith(b"\n") else []
        whole = all(
            isinstance(each["index"], int)
            and isinstance(each["path"], str)
            and (isinstance(each.get("answers"), dict) or isinstance(each.get("reason"), str))
            for each in entries
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return entries if whole else []


def first_class(side: dict[str, Any]) -> tuple[int | None, float]:
    """The predicted class, before or after adaptation, and its probability; None and NaN if it is not finite."""
    return side["top"][0] if side["top"] else (None, math.nan)


def _right(entry: dict[str, Any]) -> tuple[bool, bool] | None:
    answers = list(entry.get("answers", {}).values())
    if not answers or entry["label"] is None:
        return None
    before, after = (first_class(answers[-1][when])[0] == entry["label"] for when in ("before", "after"))
    return before, after
