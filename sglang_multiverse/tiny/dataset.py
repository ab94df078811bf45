"""The tiny task as training data: rows of prompt and completion."""

from __future__ import annotations

from itertools import islice
from typing import Any

from .solution import solution
from .task import Mode, Problem, Split, generate, prompt

#: Share of rows that ask for parallel steps; the rest ask for the same work in one sequence.
PARALLEL_SHARE = 0.7


def messages(problem: Problem, mode: Mode) -> dict[str, list[dict[str, str]]]:
    """One row of training data: ``prompt`` and ``completion``, each a list of one message."""
    return {
        "prompt": [{"role": "user", "content": prompt(problem, mode)}],
        "completion": [{"role": "assistant", "content": solution(problem, mode)}],
    }


def tiny_rows(seed: int, split: Split, count: int) -> list[dict[str, Any]]:
    """``count`` rows, :data:`PARALLEL_SHARE` of them parallel, the same for the same seed."""
    problems = islice(generate(seed, split), count)
    return [
        messages(problem, "parallel" if i % 10 < 10 * PARALLEL_SHARE else "sequential")
        for i, problem in enumerate(problems)
    ]
