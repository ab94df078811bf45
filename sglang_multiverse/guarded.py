"""A command whose processes never outlive this one: the guard started, asked and stopped."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from . import guard


class Guarded:
    """One run of ``command`` under :mod:`~sglang_multiverse.guard`.

    SGLang leaves sockets of its processes in the temporary folder, so the command gets one of its
    own, inside ``folder``.

    Args:
        command: program and arguments.
        env: its whole environment.
        folder: of this run alone; it is removed if this process dies.
        output: where its output goes; None is where this process's goes.
        grace: seconds between SIGTERM and SIGKILL when it is stopped.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        *,
        output: IO[bytes] | None = None,
        grace: float = 0.0,
    ):
        scratch = folder / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        self._grace = grace
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", guard.__file__),
                *(str(os.getpid()), str(grace), str(scratch), *command),
            ],
            env={**_caches(), **env, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a terminal's Ctrl-C reaches this process, which decides
        )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, 128 + the number for a signal.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self._process.wait(timeout)

    def ask_to_stop(self) -> None:
        """Tell it to end; again, to end at once."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End it and wait until no process of it is left."""
        self.ask_to_stop()
        try:
            self.wait(self._grace + 20)
        except subprocess.TimeoutExpired:  # the guard itself was stopped or cannot be scheduled
            for pid in (*guard.descendants(self.pid), self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait()


def _caches() -> dict[str, str]:
    """What torch would keep in the temporary folder for the next run, at the place it would."""
    with contextlib.suppress(KeyError, OSError):  # no name for this user id
        kept = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        return {"TORCHINDUCTOR_CACHE_DIR": str(kept)}
    return {}


def new_folder() -> Path:
    """A folder for one run, in the temporary folder."""
    return Path(tempfile.mkdtemp(prefix="multiverse-"))


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
