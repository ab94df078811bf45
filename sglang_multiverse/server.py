"""Start the real SGLang server as a child process, wait for it, and stop it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

#: KV tokens on a CPU; without a bound SGLang takes most of the machine's memory.
CPU_TOKENS = 20_000


class ServerError(RuntimeError):
    """The server did not come up, or went away; the message ends with its last words."""


def accelerator() -> str | None:
    """Name of an accelerator that SGLang serves on, or None."""
    import torch

    if torch.backends.mps.is_available():  # SGLang's kernels there lack what fork and join need
        return None
    return (
        str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else None
    )


def platform_flags(device: str | None) -> list[str]:
    """Server flags for ``device``; on a CPU those that SGLang needs there."""
    if device is not None:
        return []
    return ["--device", "cpu", "--attention-backend", "torch_native", "--sleep-on-idle"]


def platform_env(device: str | None) -> dict[str, str]:
    """Environment for ``device``; on a CPU it chooses the ``torch_cpu`` platform.

    Compute threads that spin for one another on a busy machine slow every step down; half the cores
    compute unless ``OMP_NUM_THREADS`` says otherwise.
    """
    if device is not None:
        return {}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    return {"SGLANG_PLATFORM": "torch_cpu", "OMP_NUM_THREADS": threads}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """In the child: be killed when the thread that started it ends, however it does (prctl(2),
    PR_SET_PDEATHSIG); SGLang's own processes follow the one that started them."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """A server of ``model`` in a process group of its own, as a context manager.

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
        self.url = f"http://127.0.0.1:{self.port}"
        self._on_wait = on_wait
        self._timeout = timeout
        device = accelerator()
        self.device = device or "cpu"
        self.command = [
            sys.executable,
            "-m",
            "sglang.launch_server",
            "--model-path",
            str(model),
            "--port",
            str(self.port),
            "--skip-server-warmup",
            *(["--plugin", "multiverse"] if plugin else []),
            *platform_flags(device),
        ]
        if device is None and not any(flag.startswith("--max-total-tokens") for flag in flags):
            self.command += ["--max-total-tokens", str(CPU_TOKENS)]
        self.command += flags
        self.env = {**os.environ, **platform_env(device), **(env or {})}
        self.log_path = Path(tempfile.mkdtemp(prefix="multiverse-")) / "server.log"
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self._log = self.log_path.open("wb")
        self._process = subprocess.Popen(
            self.command,
            env=self.env,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            self._wait()
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
        self.stop()

    def _wait(self) -> None:
        assert self._process is not None
        begun = time.monotonic()
        while True:
            waited = time.monotonic() - begun
            if self._on_wait is not None:
                self._on_wait(waited)
            if self._process.poll() is not None:
                raise ServerError(f"the server ended while starting:\n{self.last_words()}")
            if waited > self._timeout:
                raise ServerError(f"no answer after {waited:.0f} s:\n{self.last_words()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.5)

    def stop(self) -> None:
        """End the whole process group; requests under way are dropped."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

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

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def last_words(self, lines: int = 25) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def request(
        self, path: str, body: Any = None, *, timeout: float = 600, raw: bool = False
    ) -> Any:
        """POST ``body`` (GET without one) and decode the JSON answer, or return it as ``raw`` text.

        Raises:
            ServerError: HTTP status 400 or above, with the answer's text.
        """
        with self._open(path, body, timeout) as answer:
            text = answer.read().decode()
        return text if raw or not text else json.loads(text)

    def stream(self, path: str, body: Any, *, timeout: float = 600) -> Iterator[Any]:
        """POST ``body`` and yield each server-sent event, decoded."""
        with self._open(path, body, timeout) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    yield json.loads(data)

    def _open(self, path: str, body: Any, timeout: float) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"Content-Type": "application/json"}
        )
        try:
            return urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            raise ServerError(f"{path}: HTTP {error.code}: {error.read().decode()}") from error
        except OSError as error:
            raise ServerError(f"{path}: {error}; the server said:\n{self.last_words()}") from error
