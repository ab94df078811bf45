"""Runs a command so that nothing of it outlives whoever asked: ``python guard.py PARENT …``.

A server is a tree of processes, and while it loads the later ones are not yet tied to the first:
a signal to one leaves the others, with their memory. This small process stands between the parent
and the tree. It sees the parent end however it does, adopts every orphan below itself (prctl(2),
PR_SET_CHILD_SUBREAPER), and ends all of them before it ends. It needs the standard library alone,
so that it is there at once and costs a few MiB.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Seconds between two looks at the parent.
LOOK = 0.25
_PDEATHSIG, _SUBREAPER = 1, 36  # <linux/prctl.h>
_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_WATCHED = _STOP | {signal.SIGCHLD}


def main(arguments: Sequence[str]) -> int:
    """Arguments: pid of the parent, seconds of grace, scratch folder, then the command.

    SIGTERM, SIGINT and SIGHUP end the command: with SIGTERM first if there is grace, at once
    without, or at a second signal. The scratch folder is removed in the end; the folder around it,
    too, if the parent went away, since nobody is left to read what lies there.

    Returns:
        The command's exit status, negative for a signal.
    """
    parent, grace, scratch = int(arguments[0]), float(arguments[1]), Path(arguments[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    _prctl(_SUBREAPER, 1)
    orphaned = True
    try:
        # Single-threaded here, so that code before exec is safe and the death of this thread is
        # the death of this process.
        child = subprocess.Popen(arguments[3:], preexec_fn=_before_exec)
        status, orphaned = _watch(child, parent, grace)
        return status
    finally:
        _end_all()
        shutil.rmtree(scratch.parent if orphaned else scratch, ignore_errors=True)


def _before_exec() -> None:
    _prctl(_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)


def _prctl(option: int, value: int) -> None:
    """Best effort: where the call is missing, the descendants are still found by their parents."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def _watch(child: subprocess.Popen[bytes], parent: int, grace: float) -> tuple[int, bool]:
    """Until the command has ended or must end; its status, and whether the parent went away."""
    deadline: float | None = None
    while True:
        got = signal.sigtimedwait(_WATCHED, LOOK)
        if os.getppid() != parent:
            return -signal.SIGKILL, True
        status = child.poll()
        if status is not None:
            return status, False
        if got is not None and got.si_signo in _STOP:
            if deadline is not None or not grace:
                return -signal.SIGKILL, False
            child.terminate()
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() > deadline:
            return -signal.SIGKILL, False


def _end_all() -> None:
    """Kill what descends from this process until nothing does: a tree may grow while it is cut."""
    for _ in range(200):
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def descendants(root: int) -> list[int]:
    """Pids of all processes below ``root``, from /proc (proc(5))."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _processes() -> Iterator[tuple[int, int]]:
    """Pid and parent of every process; the name in between may hold blanks and brackets."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                yield int(folder.name), int(stat.rpartition(")")[2].split()[1])


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.exit(status if status >= 0 else 128 - status)
