"""A task a small model learns in minutes: counting over digits, and which count is largest.

``Let A = 3 7 9 1 6, B = 8 2 2 5 0. Which is largest, A or B?`` A name stands for how many of its
digits are over four, counted one digit at a time: ``3 0, 7 1, 9 2, 1 2, 6 3``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.text import Block, Conclusion, Document, Outline, Path, serialise

NAMES = "ABC"


@dataclass(frozen=True)
class Question:
    """``rows``: the digits of each name."""

    rows: tuple[tuple[int, ...], ...]
    ask: Literal["largest", "smallest"]

    def __str__(self) -> str:
        given = ", ".join(f"{name} = {_spaced(digits)}" for name, digits in self.named())
        *most, last = NAMES[: len(self.rows)]
        return f"Let {given}. Which is {self.ask}, {', '.join(most)} or {last}?"

    def named(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        return zip(NAMES, self.rows, strict=False)

    @property
    def answer(self) -> str:
        counts = {name: counted(digits)[1] for name, digits in self.named()}
        pick = max if self.ask == "largest" else min
        best = pick(counts, key=lambda name: counts[name])
        return f"{best} = {counts[best]}"

    def grade(self, text: str) -> bool:
        said = text.rpartition("Answer:")[2].split("<|im_end|>")[0]
        return " ".join(said.split()) == self.answer


def _spaced(digits: tuple[int, ...]) -> str:
    return " ".join(map(str, digits))


def counted(digits: tuple[int, ...]) -> tuple[str, int]:
    """The worked steps and the count."""
    count, worked = 0, []
    for digit in digits:
        count += digit > 4
        worked.append(f"{digit} {count}")
    return ", ".join(worked), count


def questions(seed: int, split: str) -> Iterator[Question]:
    """Endless, reproducible; the splits ``train`` and ``test`` never share a question."""
    rng = random.Random(f"{split}-{seed}")
    while True:
        rows = tuple(
            tuple(rng.randrange(10) for _ in range(rng.choice((5, 6, 7, 8))))
            for _ in range(rng.choice((2, 3)))
        )
        one = Question(rows, rng.choice(("largest", "smallest")))
        distinct = len({counted(digits)[1] for digits in rows}) == len(rows)
        held_out = hashlib.sha256(str(one).encode()).digest()[0] % 10 == 0
        if distinct and held_out == (split == "test"):
            yield one


def row(question: Question, mode: Literal["parallel", "sequential"]) -> dict[str, Any]:
    """One row of training data; the same work in blocks or in one sequence."""
    works, results = [], []
    for name, digits in question.named():
        worked, count = counted(digits)
        works.append(f"{name}: {worked}, so {name} is {count}")
        results.append(f"{name} is {count}")
    conclusion = f"{', '.join(results)}, {question.ask} {question.answer[0]}"
    if mode == "parallel":
        labels = [str(i) for i in range(1, len(works) + 1)]
        outlines = [Outline(i, f" Find {n}") for i, n in zip(labels, NAMES, strict=False)]
        paths = [Path(i, [f" {work}"]) for i, work in zip(labels, works, strict=True)]
        thought: list[str | Block] = [Block(outlines, paths, Conclusion([conclusion]))]
    else:
        thought = ["\n".join([*works, conclusion])]
    text = serialise(Document(thought=thought, answer=[f"Answer: {question.answer}"]))
    ending = MULTIVERSE.parallel_prompt if mode == "parallel" else MULTIVERSE.sequential_prompt
    return {
        "prompt": [{"role": "user", "content": f"{question} {ending}"}],
        "completion": [{"role": "assistant", "content": text}],
    }
