"""Whether two answers are the same, decided by math-verify in a process of its own.

math-verify bounds its work by SIGALRM, which only a main thread has; and what it runs (sympy) can
take any time and memory. So it runs in one long-lived worker process, which is killed when it
takes too long and started again for the next pair. Any thread may ask.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from enum import Enum

#: Seconds for the worker to start: sympy's import, on a busy machine.
_START = 120.0


class Verdict(Enum):
    """UNDECIDED: the time was up before it was decided."""

    SAME = "same"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


class EquivalenceError(RuntimeError):
    """The worker process does not start."""


class Equivalence:
    """Compares answers; the worker process starts at the first pair that needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None

    def __call__(self, gold: str, found: str, *, timeout: float = 10.0) -> Verdict:
        """Whether ``found`` is ``gold``, in that order: math-verify is not symmetric.

        Raises:
            EquivalenceError: math-verify cannot be imported; the message says how to install it.
        """
        if _plain(gold) == _plain(found):
            return Verdict.SAME
        with self._lock:
            reply = self._ask(gold, found, timeout)
        if reply is None:
            return Verdict.UNDECIDED
        return Verdict.SAME if reply else Verdict.DIFFERENT

    def close(self) -> None:
        """End the worker process."""
        with self._lock:
            self._stop()

    def _ask(self, gold: str, found: str, timeout: float) -> bool | None:
        if self._worker is None or self._worker.poll() is not None:
            self._start()
        worker = self._worker
        assert worker is not None and worker.stdin is not None
        try:
            worker.stdin.write(json.dumps([gold, found]) + "\n")
            worker.stdin.flush()
        except BrokenPipeError:
            self._stop()
            return None
        line = self._line(timeout)
        if not line:
            self._stop()
            return None
        return bool(json.loads(line))

    def _line(self, timeout: float) -> str:
        """The worker's next line; empty when it did not come in time (the worker is then dead)."""
        worker = self._worker
        assert worker is not None and worker.stdout is not None
        timer = threading.Timer(timeout, worker.kill)
        timer.start()
        try:
            return worker.stdout.readline()
        finally:
            timer.cancel()

    def _start(self) -> None:
        self._stop()
        self._worker = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        hello = self._line(_START).strip()
        if hello != "ready":
            self._stop()
            reason = hello or f"it gave no sign of life in {_START:g} s"
            raise EquivalenceError(
                f"answers cannot be compared: {reason}. Install what that needs with "
                "`pip install 'sglang-multiverse[data]'`."
            )

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what was not yet written has no reader any more
                    continue


#: The one most callers share.
EQUIVALENCE = Equivalence()


def _plain(answer: str) -> str:
    """What of an answer's spelling counts before any mathematics."""
    answer = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", answer)
    answer = answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    answer = re.sub(r"\\left|\\right|\\[,;:! ]|\s|^\$+|\$+$", "", answer)
    choice = re.fullmatch(r"\(?([A-Za-z])\)?\.?", answer)
    return choice.group(1).upper() if choice else answer.rstrip(".")


def _serve() -> None:
    """The worker: a JSON pair a line in, ``true`` or ``false`` a line out."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        print(f"{error}", flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        gold, found = json.loads(line)
        read = [parse(f"${answer}$", parsing_timeout=None) for answer in (gold, found)]
        same = all(read) and verify(read[0], read[1], timeout_seconds=None)
        print(json.dumps(bool(same)), flush=True)


if __name__ == "__main__":
    _serve()
