"""Start the real SGLang server as a child process, wait for it, and stop it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from .devices import (
    CPU_TOKENS,
    accelerator,
    memory_flags,
    platform_env,
    platform_flags,
    server_python,
)
from .endpoint import Endpoint, ServerError
from .guarded import Guarded, new_folder, remove

__all__ = [
    "CPU_TOKENS",
    "Server",
    "ServerError",
    "accelerator",
    "free_port",
    "platform_env",
    "platform_flags",
]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server(Endpoint):
    """A server of ``model`` as a context manager; none of its processes outlives this one.

    Its log is a file while it runs. It is removed when the server is stopped, and kept, with its
    place in the error's message, when the server fails.

    Args:
        model: folder or name of the checkpoint.
        flags: further ``sglang serve`` flags.
        env: environment variables on top of this process's.
        plugin: serve with ``--plugin multiverse``.
        on_wait: called about twice a second while loading, with the seconds so far.
        timeout: seconds to come up within.

    Raises:
        ServerError: it ended or hung while starting.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        plugin: bool = True,
        on_wait: Callable[[float], None] | None = None,
        timeout: float = 900,
    ):
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self._on_wait = on_wait
        self._timeout = timeout
        device = accelerator()
        self.device = device or "cpu"
        self.command = [
            *server_python(),
            "-m",
            "sglang.launch_server",
            "--model-path",
            str(model),
            "--port",
            str(self.port),
            "--skip-server-warmup",
            *(["--plugin", "multiverse"] if plugin else []),
            *platform_flags(device),
            *memory_flags(device, flags),
            *flags,
        ]
        self.env = {**os.environ, **platform_env(device), **(env or {})}
        self.folder: Path | None = None
        self._said = ""
        self._log: IO[bytes] | None = None
        self._process: Guarded | None = None

    def __enter__(self) -> Server:
        self.folder = new_folder()
        try:
            self._log = self.log_path.open("wb")
            self._process = Guarded(self.command, self.env, self.folder, output=self._log)
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = error is not None and not self.alive
        where = self.log_path if failed else None
        self.stop()
        if error is not None and where is not None:
            error.add_note(f"the server's log: {where}")

    def _wait(self, process: Guarded) -> None:
        begun = time.monotonic()
        while True:
            waited = time.monotonic() - begun
            if self._on_wait is not None:
                self._on_wait(waited)
            if process.poll() is not None:
                raise ServerError(f"the server ended while starting:\n{self._last_and_where()}")
            if waited > self._timeout:
                said = self._last_and_where()
                process.stop()  # so that the log is kept
                raise ServerError(f"no answer after {waited:.0f} s:\n{said}")
            if self.answers():
                return
            time.sleep(0.5)

    def stop(self) -> None:
        """End all of its processes; requests under way are dropped. It may be entered again."""
        clean = self.alive
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        if self.folder is not None and clean:
            self._said = self.log()
            remove(self.folder)
            self.folder = None

    @property
    def pid(self) -> int:
        """Of the process that all others of the server descend from.

        Raises:
            ServerError: the server is not running.
        """
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        """Where the log is, while the server runs and after it failed.

        Raises:
            ServerError: it never ran, or was stopped.
        """
        if self.folder is None:
            raise ServerError("the server has no log file: it is not running")
        return self.folder / "server.log"

    def log(self) -> str:
        """What it has said since it was last started."""
        if self.folder is None or not self.log_path.exists():
            return self._said
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def last_words(self, lines: int = 25) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def _last_and_where(self) -> str:
        return f"{self.last_words()}\nthe whole log: {self.log_path}"

    def _circumstances(self) -> str:
        where = "" if self.folder is None or self.alive else f"\nthe whole log: {self.log_path}"
        return f"; the server said:\n{self.last_words()}{where}"
