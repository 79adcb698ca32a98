"""A lock that keeps other runs out of a folder."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lorattt.errors import UserError

LOCK_FILE = "run.lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class FolderLock:
    """Keeps other runs out of a folder until it is released or the process ends, however it ends.

    Loader workers do not inherit the lock, so a run that was killed can be resumed while its workers still exist.
    Where the file system has no locks, nothing is locked.

    Raises:
        UserError: If another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._lock = FileLock(self._path, blocking=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout:
            owner = ""
            with suppress(OSError):
                owner = self._path.read_text(encoding="utf-8", errors="replace")[:200].strip()
            raise UserError(
                f"run.folder {folder} is in use by another run ({owner or 'just started'}): wait for it, "
                "end it, or name another run.folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._path.unlink(missing_ok=True)
            return
        with suppress(OSError):  # a full disk is reported where it matters
            self._path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")

    def release(self) -> None:
        """Let other runs in; does nothing if it was released before."""
        if self._lock.is_locked:
            with suppress(OSError):  # Windows removes no file that is open
                self._path.unlink(missing_ok=True)
            self._lock.release()
