"""Which processes are alive: a lock file per process, let go by the system when it dies."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path


class Lease:
    """The lease of one opened store, held until :meth:`release` or the end of the process.

    A lock needs no clock and no heartbeat: after ``kill -9`` it is free at once.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.owner = uuid.uuid4().hex
        self._file = os.open(folder / self.owner, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        (self.folder / self.owner).unlink(missing_ok=True)
        os.close(self._file)

    def alive(self, owner: str) -> bool:
        """Whether ``owner`` still holds its lease. What a dead one left is removed."""
        if owner == self.owner:
            return True
        path = self.folder / owner
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(file)
