"""Worked answers, digit by digit, in canonical form or one part after another.

Every token follows from a few others that are easy to find: each result is stated once as
``So A is 0877`` in four places, and what needs it repeats it (``Here A is 0877, B is 0635``) before
it works on the digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..dialect import MULTIVERSE, Tag
from .task import PART_NAMES, TOTAL, Definition, Mode, Part, Problem

PLACES = ("ones", "tens", "hundreds", "thousands")


@dataclass(frozen=True)
class Fork:
    """Independent parts, and what is made of their results.

    Attributes:
        names: what each part works out.
        parts: the text of each part.
        conclusion: lines that need the results.
    """

    names: tuple[str, ...]
    parts: tuple[Work, ...]
    conclusion: tuple[str, ...]


#: A text: lines, and forks between them. The first line states the definition worked on.
Work = tuple["str | Fork", ...]


def solution(problem: Problem, mode: Mode) -> str:
    """The assistant's message: worked steps and ``Answer: …``."""
    steps = _steps(problem)
    lines = list(_parallel(steps, "")) if mode == "parallel" else list(_sequential(steps))
    think, end = MULTIVERSE[Tag.THINK], MULTIVERSE[Tag.END_THINK]
    body = "\n".join((think, *lines, end))
    return f"{body}{MULTIVERSE.after_think}Answer: {problem.answer}"


def _steps(problem: Problem) -> Work:
    values = problem.values
    first = [one for one in problem.definitions if not one.derived]
    second = [one for one in problem.definitions if one.derived]
    if problem.ask == "value":
        return (f"Now {first[0]}", *_work(first[0], values)[1:])
    if problem.ask == "sum":
        total = Definition(TOTAL, problem.asked[0], "+", problem.asked[1])
        conclusion = (f"Now {total}", *_places(total, values))
    else:
        conclusion = _comparison(problem, values)
    if not second:
        return (_fork(first, values, conclusion),)
    results = ", ".join(_state(one.name, values) for one in first)
    return (
        _fork(first, values, (f"So {results}",)),
        _fork(second, values, conclusion),
    )


def _fork(given: Sequence[Definition], values: dict[str, int], conclusion: tuple[str, ...]) -> Fork:
    names = tuple(one.name for one in given)
    return Fork(names, tuple(_work(one, values) for one in given), conclusion)


def _work(one: Definition, values: dict[str, int]) -> Work:
    if isinstance(one.left, Part) and isinstance(one.right, Part):
        left, right = tuple(PART_NAMES[one.name])
        given = [
            Definition(left, one.left.left, one.left.op, one.left.right),
            Definition(right, one.right.left, one.right.op, one.right.right),
        ]
        joined = Definition(one.name, left, one.op, right)
        conclusion = (f"Now {joined}", *_places(joined, values))
        return (str(one), f"Let {given[0]}, {given[1]}", _fork(given, values, conclusion))
    return (str(one), *_places(one, values))


def _state(name: str, values: dict[str, int]) -> str:
    return f"{name} is {values[name]:04d}"


def _places(one: Definition, values: dict[str, int]) -> tuple[str, ...]:
    """The lines of one operation, from the ones up, and its result."""
    lines = []
    if isinstance(one.left, str) and isinstance(one.right, str):
        lines.append(f"Here {_state(one.left, values)}, {_state(one.right, values)}")
        left, right, places = values[one.left], values[one.right], 4
    else:
        assert isinstance(one.left, int) and isinstance(one.right, int)
        left, right, places = one.left, one.right, 3
    carry = 0
    for place in range(places):
        a, b = left // 10**place % 10, right // 10**place % 10
        if one.op == "+":
            total = a + b + carry
            work = f"{a}+{b}+{carry}={total:02d}"
            carry = total // 10
        elif one.op == "-":
            borrow, digit = (1, a - b - carry + 10) if a < b + carry else (0, a - b - carry)
            work = f"{a}-{b}-{carry}={digit}-{borrow}0"
            carry = borrow
        else:
            total = a * right + carry
            work = f"{a}*{right}={a * right:02d}+{carry}={total:02d}"
            carry = total // 10
        lines.append(f"{PLACES[place]}: {work}")
    lines.append(f"So {_state(one.name, values)}")
    return tuple(lines)


def _comparison(problem: Problem, values: dict[str, int]) -> tuple[str, ...]:
    """Each result against the best so far, place by place until two digits differ."""
    lines = []
    best = problem.asked[0]
    for other in problem.asked[1:]:
        steps = []
        for place in reversed(range(4)):
            a, b = values[best] // 10**place % 10, values[other] // 10**place % 10
            steps.append(f"{PLACES[place]} {a}{'=' if a == b else '>' if a > b else '<'}{b}")
            if a != b:
                break
        pair = f"{_state(best, values)}, {_state(other, values)}"
        if (values[other] > values[best]) == (problem.ask == "largest"):
            best = other
        lines.append(f"Here {pair}: {', '.join(steps)}, {problem.ask} {best}")
    return tuple(lines)


def _parallel(work: Work, prefix: str) -> list[str]:
    """Lines with each fork as a block; ``prefix`` is the label around it, ``2.`` in path 2."""
    lines: list[str] = []
    for step in work:
        if isinstance(step, str):
            lines.append(step)
            continue
        labels = [f"{prefix}{i}" for i in range(1, len(step.names) + 1)]
        lines += [
            MULTIVERSE.cue.rstrip("\n"),
            MULTIVERSE[Tag.PARALLEL],
            MULTIVERSE[Tag.GOAL],
        ]
        for label, name in zip(labels, step.names, strict=True):
            lines += [
                MULTIVERSE[Tag.OUTLINE],
                f"{label}: Find {name}",
                MULTIVERSE[Tag.END_OUTLINE],
            ]
        lines.append(MULTIVERSE[Tag.END_GOAL])
        for label, part in zip(labels, step.parts, strict=True):
            header, *rest = _parallel(part, f"{label}.")
            lines += [f"{MULTIVERSE.path_header(label)} {header}", *rest, MULTIVERSE[Tag.END_PATH]]
        lines += [
            MULTIVERSE[Tag.CONCLUSION],
            *step.conclusion,
            MULTIVERSE[Tag.END_CONCLUSION],
            MULTIVERSE[Tag.END_PARALLEL],
        ]
    return lines


def _sequential(work: Work) -> list[str]:
    """The same lines, one part after another, without blocks."""
    lines: list[str] = []
    for step in work:
        if isinstance(step, str):
            lines.append(step)
            continue
        for part in step.parts:
            header, *rest = _sequential(part)
            lines += [f"Now {header}", *rest]
        lines += step.conclusion
    return lines
