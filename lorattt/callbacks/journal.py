"""The journal of a run: a line an image, appended batch by batch, from which a run that died goes on.

Each device appends to ``journal.rank<r>.jsonl`` in the run's folder. A line is JSON; ``batch`` says which line of how
many of its batch it is. A batch counts as whole or not at all: one that was cut short is done again as it was, so
that its numbers are those of an undisturbed run to the last digit.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lorattt.errors import UserError

PATTERN = "journal.rank*.jsonl"
SYNC_SECONDS = 30.0


class Place(NamedTuple):
    """Where an image's line stands, and what is asked of it often.

    Attributes:
        file: The journal.
        offset: The line's first byte.
        path: The image's name in results.
        right: Whether the last method's answers, before and after, are right; None where the label is not known.
    """

    file: Path
    offset: int
    path: str
    right: tuple[bool, bool] | None


@dataclass
class Journals:
    """What stands in the journals of a folder, of all devices and attempts.

    Attributes:
        done: Images that were classified, by dataset-wide number.
        bad: Images that could not be read and were not classified later.
        dropped: Lines that are damaged, or belong to a batch that is not whole.
    """

    done: dict[int, Place] = field(default_factory=dict)
    bad: dict[int, Place] = field(default_factory=dict)
    dropped: int = 0


class Journal:
    """One device's journal, open for appending; what does not belong to a whole batch at its end is cut off.

    Args:
        path: The file; made where there is none.

    Raises:
        UserError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = time.monotonic()
        with saving(path, path.parent):
            self._file = path.open("ab", buffering=0)
            self._file.truncate(_scan(path).end)

    def append(self, entries: list[dict[str, Any]]) -> None:
        """Write a batch. It is with the operating system on return, and on the disk within 30 s or a batch.

        Raises:
            UserError: If the disk is full or fails.
        """
        count = len(entries)
        lines = [json.dumps({**entry, "batch": [place, count]}) + "\n" for place, entry in enumerate(entries)]
        left = memoryview("".join(lines).encode("ascii"))
        with saving(self.path, self.path.parent):
            while left:
                left = left[self._file.write(left) :]
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        """Have it on the disk, and close it.

        Raises:
            UserError: If the disk is full or fails.
        """
        with saving(self.path, self.path.parent), self._file:
            os.fsync(self._file.fileno())

    def abandon(self) -> None:
        """Close it after a failure, which is told elsewhere."""
        with suppress(OSError):
            self._file.close()


def journal_path(folder: Path, rank: int) -> Path:
    """The journal of a device."""
    return folder / PATTERN.replace("*", str(rank))


def journals_in(folder: Path) -> list[Path]:
    """The journals of a folder that hold anything, of whatever number of devices."""
    return sorted(path for path in folder.glob(PATTERN) if path.stat().st_size)


def remove_journals(folder: Path) -> None:
    """Remove the journals of a folder, empty ones too."""
    for path in folder.glob(PATTERN):
        path.unlink(missing_ok=True)


def read_journals(folder: Path) -> Journals:
    """Find the whole entries of all journals of a folder."""
    found = Journals()
    for path in journals_in(folder):
        scan = _scan(path)
        found.done |= scan.done
        found.bad |= scan.bad
        found.dropped += scan.dropped
    for index in found.bad.keys() & found.done.keys():  # it could be read in a later attempt
        del found.bad[index]
    return found


def entries_at(places: Iterable[Place]) -> Iterator[dict[str, Any]]:
    """Read entries from where they stand, one at a time."""
    files: dict[Path, Any] = {}
    try:
        for place in places:
            if place.file not in files:
                files[place.file] = place.file.open("rb")
            file = files[place.file]
            file.seek(place.offset)
            entry: dict[str, Any] = json.loads(file.readline())
            yield entry
    finally:
        for file in files.values():
            file.close()


@contextmanager
def saving(path: Path, folder: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into a line for the user.

    Raises:
        UserError: In place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): make room or mend the disk, then give the same command "
            f"with --run.folder {folder}; what was written is kept"
        ) from error


@dataclass
class _Scan(Journals):
    """One journal.

    Attributes:
        end: Length up to the end of the last whole batch.
    """

    end: int = 0


def _scan(path: Path) -> _Scan:
    scan, batch, lines, kept, offset = _Scan(), list[tuple[int, dict[str, Any]]](), 0, 0, 0
    with path.open("rb") as file:
        for line in file:
            start, offset, lines = offset, offset + len(line), lines + 1
            entry = _parse(line)
            if entry is None or (batch and entry["batch"] != [len(batch), batch[0][1]["batch"][1]]):
                batch = []
            if entry is None or entry["batch"][0] != len(batch):
                continue
            batch.append((start, entry))
            if len(batch) == entry["batch"][1]:
                for place, each in batch:
                    found = scan.bad if "reason" in each else scan.done
                    found[each["index"]] = Place(path, place, each["path"], _right(each))
                kept, scan.end, batch = kept + len(batch), offset, []
    scan.dropped = lines - kept
    return scan


def _parse(line: bytes) -> dict[str, Any] | None:
    """An entry, or None for what is no whole line of a journal."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
        whole = isinstance(entry["index"], int) and isinstance(entry["path"], str) and len(entry["batch"]) == 2
        whole = whole and (isinstance(entry.get("answers"), dict) or isinstance(entry.get("reason"), str))
    except (ValueError, KeyError, TypeError):
        return None
    return entry if whole else None


def first_class(side: dict[str, Any]) -> tuple[int | None, float]:
    """What an answer predicts, before or after adaptation: a class and its probability; None and NaN if not finite."""
    number, probability = side["top"][0] if side["top"] else (None, math.nan)
    # An earlier version listed classes for an answer that is not finite as well.
    return (number, float(probability)) if math.isfinite(float(probability)) else (None, math.nan)


def _right(entry: dict[str, Any]) -> tuple[bool, bool] | None:
    answers = list(entry.get("answers", {}).values())
    if not answers or entry["label"] is None:
        return None
    before, after = (first_class(answers[-1][when])[0] == entry["label"] for when in ("before", "after"))
    return before, after
