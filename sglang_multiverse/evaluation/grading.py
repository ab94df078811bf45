"""Answers held to references, by math-verify in worker processes with a limit of processor time."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal

from ..data_pipeline.gates.meaning.equivalence import Equivalence, Verdict
from .answers import Extracted, Extraction, extract, is_cut

#: How an answer is compared: as mathematics, as the letter of a choice, or as words.
Comparison = Literal["mathematics", "choice", "words"]

#: Seconds of processor time that one pair may take.
SECONDS = 10.0


@dataclass(frozen=True)
class Grade:
    """What became of one output.

    Attributes:
        correct: None where math-verify did not decide in time; counted as wrong.
        truncated: whether the output was cut before its end.
    """

    correct: bool | None
    answer: str | None
    extraction: Extraction
    truncated: bool

    def row(self) -> dict[str, Any]:
        return asdict(self)


class Grader:
    """Grades outputs; each of its worker processes starts when it is first needed. Any thread may
    use it.

    Args:
        workers: pairs compared at a time.
        seconds: of processor time for one pair.
    """

    def __init__(self, workers: int | None = None, seconds: float = SECONDS):
        self.workers = workers or max(os.cpu_count() or 1, 1)
        self.seconds = seconds
        self._all = [Equivalence() for _ in range(self.workers)]
        self._free: queue.SimpleQueue[Equivalence] = queue.SimpleQueue()
        for one in self._all:
            self._free.put(one)

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; a later pair starts one again."""
        for one in self._all:
            one.close()

    def __call__(
        self,
        output: str,
        reference: str,
        comparison: Comparison = "mathematics",
        finish_reason: str | None = None,
    ) -> Grade:
        """Grade ``output`` by ``reference``, which is bare or boxed.

        Raises:
            EquivalenceError: math-verify is not installed.
        """
        found = extract(output)
        cut = is_cut(output, finish_reason)
        if found.answer is None:
            return Grade(False, None, found.rule, cut)
        wanted = extract(reference).answer if "\\boxed" in reference else None
        same = self._same(wanted or reference, found, comparison)
        return Grade(same, found.answer, found.rule, cut)

    def all(self, rows: Iterable[dict[str, Any]]) -> Iterator[Grade]:
        """Grade rows ``{output, reference[, comparison, finish_reason]}``, in their order."""
        with ThreadPoolExecutor(self.workers) as pool:
            yield from pool.map(lambda row: self(**row), rows)

    def _same(self, wanted: str, found: Extracted, comparison: Comparison) -> bool | None:
        assert found.answer is not None
        if comparison == "words":
            return _words(wanted) == _words(found.answer)
        if comparison == "choice":
            return _letter(wanted) == _letter(found.answer)
        one = self._free.get()
        try:
            verdict = one(wanted, found.answer, timeout=self.seconds)
        finally:
            self._free.put(one)
        return None if verdict is Verdict.UNDECIDED else verdict is Verdict.SAME


def _words(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _letter(text: str) -> str:
    """``B`` of ``(B)``, ``B.``, ``\\text{B}`` or ``B: because``."""
    bare = text.replace("\\text", "").replace("\\mathrm", "").strip("{}()[]*$ \t")
    first, rest = bare[:1].upper(), bare[1:2]
    return first if first.isalpha() and not rest.isalnum() else bare
