"""The outline gate: every step once and in order, groups that can run in parallel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ...finding import Finding
from ...outline import Outline
from ..options import CURATION, GateOptions

#: Deepest numbering: ``S2.1``.
_MAX_LABEL = 2


def check_outline(
    outline: Outline, options: GateOptions = CURATION, *, listed: Outline | None = None
) -> list[Finding]:
    """What is wrong with the tree of step 1.

    Args:
        listed: the flat list of steps the tree was made of, to hold it to.
    """
    return [
        *outline.issues,
        *_numbered(outline),
        *_groups(outline, options),
        *(_against(outline, listed) if listed is not None else ()),
    ]


def _finding(code: str, message: str, span: tuple[int, int]) -> Finding:
    return Finding(code, message, span, gate="outline")


def _number(label: str) -> tuple[int, ...]:
    return tuple(int(part) for part in label[1:].split("."))


def _numbered(outline: Outline) -> Iterator[Finding]:
    steps = list(outline.steps())
    if not steps:
        yield _finding("no-steps", "no line begins with a step label such as `S1:`", (0, 0))
        return
    seen: set[str] = set()
    for step in steps:
        number = _number(step.label)
        if step.label in seen:
            yield _finding("repeated-step", f"{step.label} stands here again", step.span)
        elif number[-1] > 1 and _label((*number[:-1], number[-1] - 1)) not in seen:
            before = _label((*number[:-1], number[-1] - 1))
            yield _finding(
                "missing-step", f"{before} does not stand before {step.label}", step.span
            )
        if len(number) > 1 and _label(number[:-1]) not in seen:
            yield _finding(
                "orphan-step", f"{step.label} does not follow {_label(number[:-1])}", step.span
            )
        if len(number) > _MAX_LABEL:
            yield _finding(
                "step-too-deep", f"{step.label} is deeper than S1.1; join it to its step", step.span
            )
        if not step.text and not step.parts:
            yield _finding("empty-step", f"{step.label} says nothing", step.span)
        seen.add(step.label)
    for one, two in pairwise(steps):
        if _number(two.label) < _number(one.label):
            yield _finding(
                "step-order",
                f"{two.label} stands after {one.label}; keep the order, and group adjacent steps "
                "only",
                two.span,
            )


def _label(number: tuple[int, ...]) -> str:
    return "S" + ".".join(map(str, number))


def _groups(outline: Outline, options: GateOptions) -> Iterator[Finding]:
    groups = list(outline.groups())
    if not groups and options.require_block:
        yield _finding("no-group", "no steps are grouped as parallel", (0, 0))
    for group, depth in groups:
        if len([branch for branch in group.branches if branch]) < 2:
            yield _finding(
                "single-branch", "a <parallel> of fewer than two branches; unwrap it", group.span
            )
        if len(group.branches) > options.max_branches:
            yield _finding(
                "too-wide",
                f"a <parallel> of {len(group.branches)} branches, at most {options.max_branches}; "
                "join adjacent ones",
                group.span,
            )
        if depth > options.max_depth:
            yield _finding(
                "too-deep",
                f"<parallel> nested {depth} deep, at most {options.max_depth}; unwrap the inner "
                "one",
                group.span,
            )


def _against(outline: Outline, listed: Outline) -> Iterator[Finding]:
    have = {step.label for step in outline.steps()}
    wanted = [step.label for step in listed.steps()]
    for label in wanted:
        if label not in have:
            yield _finding("missing-step", f"{label} of the list is not in the tree", (0, 0))
    for step in outline.steps():
        if step.label not in wanted:
            yield _finding("added-step", f"{step.label} is not in the list of steps", step.span)
