"""``multiverse serve`` and the server object as a user meets them: started, asked, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sglang_multiverse.server import Server, ServerError, free_port
from sglang_multiverse.tiny import MODEL_DIR

pytestmark = pytest.mark.weights("tiny")


class Serving:
    """``multiverse serve`` with a temporary folder of its own."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "sglang_multiverse.cli", "serve"]
        self.process = subprocess.Popen(
            [*command, "--port", self.url.rpartition(":")[2], "--max-total-tokens", "4000"],
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.tree: list[psutil.Process] = []

    def example(self) -> str:
        """The request it prints when it answers."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("curl"):
                self.look()
                return line
        raise AssertionError("it ended before it answered")

    def look(self) -> None:
        self.tree = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]

    def left(self, seconds: float) -> list[psutil.Process]:
        _, alive = psutil.wait_procs(self.tree[1:], timeout=seconds)
        return [one for one in alive if one.is_running() and one.status() != "zombie"]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    one = Serving(scratch)
    yield one
    one.process.kill()
    one.process.wait()
    assert one.left(20) == []


def runs(scratch: Path) -> list[Path]:
    return list(scratch.glob("multiverse-*")) + list(scratch.glob("tmp*"))


def test_serve_prints_a_request_that_works_and_killing_it_leaves_nothing(serving: Serving) -> None:
    done = subprocess.run(
        ["bash", "-c", serving.example()], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["meta_info"]["multiverse_forks"] == 1

    command = [sys.executable, "-m", "sglang_multiverse.cli", "demo", "--url", serving.url]
    demo = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Answer: C = 1068" in demo.stdout
    assert "Answer:" not in demo.stderr

    assert len(serving.tree) >= 4  # itself, the guard, SGLang, its scheduler and detokenizer
    serving.process.kill()
    assert serving.left(10) == []
    deadline = time.monotonic() + 10
    while runs(serving.scratch) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert runs(serving.scratch) == []


@pytest.mark.nightly
def test_serve_told_to_end_while_it_loads_leaves_nothing(serving: Serving) -> None:
    deadline = time.monotonic() + 60
    while len(serving.tree) < 5 and time.monotonic() < deadline:  # its own children load, too
        time.sleep(0.2)
        serving.look()
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(45) == 0
    assert serving.left(10) == []
    assert runs(serving.scratch) == []


def test_a_server_that_cannot_start_says_why_and_keeps_its_log() -> None:
    with pytest.raises(ServerError, match="--page-size 16") as caught:
        Server(MODEL_DIR, flags=["--page-size", "16"]).__enter__()
    log = Path(str(caught.value).rpartition("the whole log: ")[2])
    assert "--page-size 16" in log.read_text()
    log.unlink()
    log.parent.rmdir()


@pytest.mark.nightly
def test_a_stopped_server_leaves_neither_processes_nor_files_and_starts_again() -> None:
    server = Server(MODEL_DIR, flags=["--max-total-tokens", "4000"])
    for _ in range(2):
        # From a thread that ends: the server belongs to the process.
        thread = threading.Thread(target=server.__enter__)
        thread.start()
        thread.join()
        assert server.request("/model_info")["model_path"] == str(MODEL_DIR)
        folder, tree = server.folder, psutil.Process(server.pid).children(recursive=True)
        assert folder is not None
        server.stop()
        assert not any(one.is_running() for one in tree)
        assert not folder.exists()
        assert "ready to roll" in server.log()
