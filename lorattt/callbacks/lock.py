"""A folder for one run at a time."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorattt.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are the user's to avoid
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "run.lock"


class FolderLock:
    """Keeps other runs out of a folder until it is released or the process ends, however it ends.

    The lock is the operating system's, not the file: a file that a killed run left behind is no lock. It belongs to
    this process alone; loader workers do not inherit it, so that a run that was killed may be gone on with at once,
    while its workers are still there. Where the file system has no locks, nothing is locked.

    Args:
        folder: The folder.

    Raises:
        UserError: If another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file: Any = None
        if fcntl is None:
            return
        while True:
            file = self._path.open("a+", encoding="utf-8")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                owner = file.read(200).strip()
                file.close()
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    self._path.unlink(missing_ok=True)
                    return
                raise UserError(
                    f"run.folder {folder} is in use by another run ({owner or 'just started'}): wait for it, "
                    "end it, or name another run.folder"
                ) from None
            # Another run may have ended and removed the file between the two lines above.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                    break
            file.close()
        self._file = file
        with suppress(OSError):  # a full disk is told where it matters
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()

    def release(self) -> None:
        """Let other runs in; nothing if it was done already."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)  # while it is still locked
            with suppress(OSError):
                self._file.close()
            self._file = None
