"""Nothing of a guarded command outlives whoever started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sglang_multiverse.guarded import Guarded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) and /proc")

#: Starts a child that starts a grandchild in a session of its own, both deaf to SIGTERM.
TREE = """
import signal, subprocess, sys, tempfile, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
depth = int(sys.argv[2])
if depth:
    subprocess.Popen([sys.executable, "-c", open(sys.argv[3]).read(), sys.argv[1], str(depth - 1),
                      sys.argv[3]], start_new_session=True)
tempfile.mkstemp()
open(sys.argv[1], "a").write("x")
time.sleep(600)
"""
PARENT = """
import os, sys, time
from pathlib import Path
from sglang_multiverse.guarded import Guarded
folder, mark, code = map(Path, sys.argv[1:])
Guarded([sys.executable, "-c", code.read_text(), str(mark), "2", str(code)], os.environ, folder)
time.sleep(600)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "tree.py"
    file.write_text(TREE)
    return file


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Callable[[], list[psutil.Process]]]:
    """The processes that name this test's folder; none may be left behind."""

    def found() -> list[psutil.Process]:
        marked = []
        for process in psutil.process_iter():
            try:
                if any(str(tmp_path) in word for word in process.cmdline()):
                    marked.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return marked

    yield found
    for process in found():
        process.kill()


def until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def grown(mark: Path) -> bool:
    return mark.exists() and len(mark.read_text()) == 3


def _by_default() -> None:
    """A background job may have been started with these ignored, and hands that on."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_no_process_and_no_file_outlives_the_parent(
    number: signal.Signals, tmp_path: Path, code: Path, living: Callable[[], list[psutil.Process]]
) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    command = [sys.executable, "-c", PARENT, str(run), str(mark), str(code)]
    parent = subprocess.Popen(command, preexec_fn=_by_default)
    assert until(lambda: grown(mark))
    parent.send_signal(number)
    parent.wait(20)
    assert until(lambda: not living())
    assert until(lambda: not run.exists())


def test_stopping_ends_all_of_it_and_leaves_no_temporary_file(
    tmp_path: Path, code: Path, living: Callable[[], list[psutil.Process]]
) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    command = [sys.executable, "-c", TREE, str(mark), "2", str(code)]
    guarded = Guarded(command, os.environ, run)
    assert until(lambda: grown(mark))
    assert len(list((run / "tmp").iterdir())) == 3
    guarded.stop()
    assert living() == []
    assert list(run.iterdir()) == []


def test_the_end_of_the_thread_that_started_it_is_not_the_end_of_the_process(
    tmp_path: Path, code: Path
) -> None:
    started: list[Guarded] = []
    command = [sys.executable, "-c", TREE, str(tmp_path / "mark"), "0", str(code)]
    thread = threading.Thread(
        target=lambda: started.append(Guarded(command, os.environ, tmp_path / "run"))
    )
    thread.start()
    thread.join()
    time.sleep(1)
    assert started[0].poll() is None
    started[0].stop()


def test_the_death_of_the_guard_is_the_death_of_the_command(
    tmp_path: Path, code: Path, living: Callable[[], list[psutil.Process]]
) -> None:
    mark = tmp_path / "mark"
    command = [sys.executable, "-c", TREE, str(mark), "0", str(code)]
    guarded = Guarded(command, os.environ, tmp_path / "run")
    assert until(lambda: mark.exists() and bool(mark.read_text()))
    os.kill(guarded.pid, signal.SIGKILL)
    assert until(lambda: not living())


def test_the_exit_status_is_the_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(7)"]
    assert Guarded(command, os.environ, tmp_path / "run").wait(20) == 7


def test_with_grace_a_command_may_finish(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep(600)"
    )
    guarded = Guarded([sys.executable, "-c", code], os.environ, tmp_path / "run", grace=20)
    assert until(ready.exists)
    guarded.ask_to_stop()
    assert guarded.wait(10) == 3


def test_a_second_signal_ends_it_at_once(tmp_path: Path, code: Path) -> None:
    mark = tmp_path / "mark"
    command = [sys.executable, "-c", TREE, str(mark), "0", str(code)]
    guarded = Guarded(command, os.environ, tmp_path / "run", grace=60)
    assert until(lambda: mark.exists() and bool(mark.read_text()))
    guarded.ask_to_stop()
    time.sleep(0.5)
    assert guarded.poll() is None
    guarded.ask_to_stop()
    assert guarded.wait(10) == 128 + signal.SIGKILL
