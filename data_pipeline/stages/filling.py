"""Stage 2, first task: the chain's sentences under the outline's steps.

The LLM names sentences by number and never copies them, so that what ends up in the document is
the source to the letter, at a few hundred tokens instead of the whole chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..finding import Finding
from ..outline import Group, Outline, Step
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Passage, Record, Rejection
from .asking import Question, Reading, Steps, ask
from .chain import opening
from .payload import payload
from .placing import Placement, read_placement, runs


def fill(record: Record, recipe: Recipe) -> Steps:
    """Give ``record`` its filled outline."""
    outline = record.outline
    assert outline is not None
    task = recipe.prompts["fill"].fill(outline=outline.render().rstrip())

    def read(reply: str) -> Reading[Placement]:
        text = payload(reply)
        placed = read_placement(text, outline, record.source)
        findings = placed.findings or list(_empty_branches(outline, placed))
        return Reading(placed, findings, text, record.source)

    question = Question("fill", STAGE_VERSIONS["fill"], "fill", opening(record, recipe, task))
    placed = yield from ask(record, recipe, question, read)
    if isinstance(placed, Rejection):
        return placed
    return replace(
        record,
        filled=filled_outline(record.source, outline, placed),
        passages=tuple(_passages(record.source, outline.parts, placed)),
        notes=(*record.notes, *placed.notes()),
    )


def filled_outline(source: str, outline: Outline, placed: Placement) -> Outline:
    """``outline`` with the source's sentences for texts. Its ``text`` is what all steps say."""
    pieces: list[str] = []
    at = 0

    def put(part: Step | Group) -> Step | Group:
        nonlocal at
        if isinstance(part, Group):
            branches = tuple(tuple(put(inner) for inner in branch) for branch in part.branches)
            return replace(part, branches=branches)
        text = _said(source, placed, placed.under[part.label])
        pieces.append(text)
        span = (at, at + len(text))
        at += len(text)
        return Step(part.label, text, tuple(put(inner) for inner in part.parts), span)

    parts = tuple(put(part) for part in outline.parts)
    return Outline(parts, "".join(pieces))


def _said(source: str, placed: Placement, units: Sequence[int]) -> str:
    """What ``units`` say, on lines of its own."""
    text = "".join(
        source[placed.units[first].span[0] : placed.units[last].span[1]]
        for first, last in runs(units)
    )
    return text if not text or text[-1].isspace() else f"{text}\n"


def _passages(
    source: str, parts: Sequence[Step | Group], placed: Placement
) -> Iterator[str | Passage]:
    for part in parts:
        if isinstance(part, Step):
            yield _said(source, placed, placed.under[part.label])
            yield from _passages(source, part.parts, placed)
            continue
        own = [placed.under[step.label] for step in Outline((part,)).steps()]
        units = sorted({unit for some in own for unit in some})
        yield Passage(
            plain=_said(source, placed, units).strip(),
            laid_out="".join(_said(source, placed, some) for some in own),
            marked=any(placed.is_marked(unit) for unit in units),
        )


def _empty_branches(outline: Outline, placed: Placement) -> Iterator[Finding]:
    for group, _ in outline.groups():
        for branch in group.branches:
            labels = [step.label for step in Outline(branch).steps()]
            if not any(placed.under[label] for label in labels):
                yield Finding(
                    "empty-path",
                    f"the branch of {', '.join(labels)} has no sentence",
                    gate="coverage",
                )
