"""Whether two answers are the same, decided by math-verify in a process of its own.

math-verify bounds its work by SIGALRM, which only a main thread has; and what it runs (sympy) can
take any time. So it runs in one long-lived worker process. The kernel ends that when a pair has
used up its processor time, which unlike the clock does not run faster on a busy machine; it is
started again for the next pair. Any thread may ask.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from enum import Enum

from sglang_multiverse.extras import missing

#: Seconds on the clock for the worker to start, and per second of processor time it is granted:
#: only what hangs without working takes that long.
_START, _PATIENCE = 900.0, 60.0


class Verdict(Enum):
    """UNDECIDED: the worker ended before it had decided."""

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

        Args:
            timeout: seconds of processor time.

        Raises:
            EquivalenceError: the worker does not start; the message says why and what to do.
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
            worker.stdin.write(json.dumps([gold, found, timeout]) + "\n")
            worker.stdin.flush()
        except BrokenPipeError:
            self._stop()
            return None
        line = self._line(timeout * _PATIENCE)
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
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            # By path, so that it need not import this package; -P keeps our modules off its path.
            self._worker = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
            if self._line(_START).strip() == "ready":
                return
            log.seek(0)
            lines = log.read().strip().splitlines()
        self._stop()
        reason = lines[-1] if lines else f"the worker gave no sign of life in {_START:g} s"
        raise EquivalenceError(
            f"answers cannot be compared: {reason}; {missing('math-verify', 'data')}"
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
    """The worker: ``[gold, found, seconds]`` a line in, ``true`` or ``false`` a line out."""
    from math_verify import parse, verify

    print("ready", flush=True)
    for line in sys.stdin:
        gold, found, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # the signal is left to end the process
        read = [parse(f"${answer}$", parsing_timeout=None) for answer in (gold, found)]
        same = all(read) and verify(read[0], read[1], timeout_seconds=None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(bool(same)), flush=True)


if __name__ == "__main__":
    _serve()
