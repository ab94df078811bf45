"""Stage 2, first task: the chain's sentences under the outline's steps.

The LLM names sentences by number and never copies them, so that what ends up in the document is
the source to the letter, at a few hundred tokens instead of the whole chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from ..finding import Finding
from ..gates import check_fill
from ..outline import Group, Outline, Step
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Record, Rejection
from ..source.sentences import Span, split_sentences
from .asking import Question, Reading, Steps, ask
from .chain import opening
from .payload import payload

_LINE = re.compile(r"[ \t]*(?:[-*][ \t]+)?[*_]*(S\d+(?:\.\d+)*)[*_]*[ \t]*:[*_]*[ \t]*(.*)")
_RANGE = re.compile(r"\[?(\d+)\]?(?:[ \t]*(?:-|–|—|\.\.|to)[ \t]*\[?(\d+)\]?)?$")
_NONE = frozenset(["", "-", "–", "—", "none", "(none)"])


def fill(record: Record, recipe: Recipe) -> Steps:
    """Give ``record`` its filled outline."""
    outline = record.outline
    assert outline is not None
    spans = split_sentences(record.source)
    task = recipe.prompts["fill"].fill(outline=outline.render().rstrip())

    def read(reply: str) -> Reading[Outline]:
        text = payload(reply)
        placed = read_placement(text, [step.label for step in outline.steps()], spans)
        if placed.findings:
            return Reading(None, placed.findings, text, record.source)
        filled = filled_outline(record.source, outline, placed.sentences, spans)
        findings = [
            *_empty_branches(filled),
            *check_fill(record.source, outline, filled, recipe.gates),
        ]
        return Reading(filled, findings, filled.text, record.source)

    question = Question("fill", STAGE_VERSIONS["fill"], "fill", opening(record, recipe, task))
    filled = yield from ask(record, recipe, question, read)
    return filled if isinstance(filled, Rejection) else replace(record, filled=filled)


class _Note(Protocol):
    """What :func:`read_placement` gives its parts to report with."""

    def __call__(self, code: str, message: str, span: Span, *, in_source: bool = False) -> None: ...


@dataclass(frozen=True)
class Placement:
    """Which sentences (0-based) stand under which step, and what is wrong with that."""

    sentences: dict[str, list[int]]
    findings: list[Finding]


def read_placement(text: str, labels: Sequence[str], spans: Sequence[Span]) -> Placement:
    """Read ``S1: 1-4, 7`` lines. Spans of findings count in ``text``, those of sentences in the
    source."""
    findings: list[Finding] = []

    def note(code: str, message: str, span: Span, *, in_source: bool = False) -> None:
        where = "source" if in_source else "text"
        findings.append(Finding(code, message, span, "coverage", where))

    placed: dict[str, list[int]] = {}
    at = 0
    for line in text.splitlines(keepends=True):
        span = (at, at + len(line.rstrip()))
        at += len(line)
        match = _LINE.match(line.rstrip())
        if match is None:
            if line.strip() and not line.lstrip().startswith("<"):
                note("unreadable-line", "write `S1: 1-4` and nothing else", span)
            continue
        label, numbers = match.group(1), match.group(2)
        if label not in labels:
            note("added-step", f"{label} is not in the outline", span)
        elif label in placed:
            note("repeated-step", f"{label} stands here again; one line per step", span)
        else:
            placed[label] = list(_numbers(numbers, len(spans), span, note))
    for label in labels:
        if label not in placed:
            note("missing-step", f"{label} has no line; write `{label}: -` if it is empty", (0, 0))
    _each_once(placed, spans, note)
    return Placement(placed, findings)


def _numbers(text: str, count: int, span: Span, note: _Note) -> Iterator[int]:
    for part in text.split(","):
        part = part.strip()
        if part.lower() in _NONE:
            continue
        match = _RANGE.match(part)
        if match is None:
            note("unreadable-line", f"{part!r} is no sentence number or range", span)
            continue
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if not 1 <= first <= last <= count:
            note("unknown-sentence", f"{part}: the chain has sentences 1 to {count}", span)
            continue
        yield from range(first - 1, last)


def _each_once(placed: dict[str, list[int]], spans: Sequence[Span], note: _Note) -> None:
    owner: dict[int, str] = {}
    for label, sentences in placed.items():
        for sentence in sentences:
            if sentence in owner:
                note(
                    "duplicated-sentence",
                    f"sentence {sentence + 1} is under {owner[sentence]} and {label}; keep one",
                    spans[sentence],
                    in_source=True,
                )
            owner[sentence] = label
    for start, end in _runs([i for i in range(len(spans)) if i not in owner]):
        named = f"sentence {start + 1}" if start == end else f"sentences {start + 1} to {end + 1}"
        note(
            "missing-sentence",
            f"{named} under no step",
            (spans[start][0], spans[end][1]),
            in_source=True,
        )


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers, both ends included."""
    if not numbers:
        return
    start = numbers[0]
    for one, two in pairwise([*numbers, None]):
        if two is None or two != one + 1:
            yield start, one
            start = two if two is not None else start


def filled_outline(
    source: str, outline: Outline, placed: dict[str, list[int]], spans: Sequence[Span]
) -> Outline:
    """``outline`` with the source's sentences for texts. Its ``text`` is what all steps say."""
    pieces: list[str] = []
    at = 0

    def put(part: Step | Group) -> Step | Group:
        nonlocal at
        if isinstance(part, Group):
            branches = tuple(tuple(put(inner) for inner in branch) for branch in part.branches)
            return replace(part, branches=branches)
        text = "".join(
            source[spans[first][0] : spans[last][1]] for first, last in _runs(placed[part.label])
        )
        if text and not text[-1].isspace():
            text += "\n"
        pieces.append(text)
        span = (at, at + len(text))
        at += len(text)
        return Step(part.label, text, tuple(put(inner) for inner in part.parts), span)

    parts = tuple(put(part) for part in outline.parts)
    return Outline(parts, "".join(pieces))


def _empty_branches(filled: Outline) -> Iterator[Finding]:
    for group, _ in filled.groups():
        for branch in group.branches:
            labels = [step.label for step in _steps(branch)]
            if not any(step.text.strip() for step in _steps(branch)):
                yield Finding(
                    "empty-path",
                    f"the branch of {', '.join(labels)} has no sentence",
                    gate="coverage",
                )


def _steps(parts: Sequence[Step | Group]) -> Iterator[Step]:
    yield from Outline(tuple(parts)).steps()
