"""Stage 1: the chain's steps, and which of them could have been thought at the same time.

One chat of two turns. The first lists steps and substeps, the second groups both; each answer is
read into a tree and checked before anything further is paid for.
"""

from __future__ import annotations

from dataclasses import replace

from sglang_multiverse.lexer import split_tags

from ..finding import Finding
from ..gates import check_outline
from ..outline import Outline, parse_outline
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Record, Rejection
from ..teacher.call import Message
from ..teacher.task import Task
from .asking import Question, Reading, Steps, ask
from .chain import opening
from .payload import payload


def outline(record: Record, recipe: Recipe) -> Steps:
    """Give ``record`` its outline."""
    unfit = _unfit(record)
    if unfit is not None:
        return Rejection.of("outline", [unfit])
    ungrouped = replace(recipe.gates, require_block=False)
    first = opening(record, recipe, recipe.prompts["outline-steps"].fill())

    def read_steps(reply: str) -> Reading[Outline]:
        steps = parse_outline(payload(reply))
        findings = check_outline(steps, ungrouped)
        if next(steps.groups(), None) is not None:
            findings.append(
                Finding("early-group", "list the steps without <parallel>", gate="outline")
            )
        return Reading(steps, findings, steps.text)

    listed = yield from ask(
        record,
        recipe,
        Question("outline", STAGE_VERSIONS["outline"], "outline-steps", first),
        read_steps,
    )
    if isinstance(listed, Rejection):
        return listed

    def read_groups(reply: str) -> Reading[Outline]:
        tree = parse_outline(payload(reply))
        return Reading(tree, check_outline(tree, ungrouped, listed=listed), tree.text)

    (user,) = first
    second = (
        Message("user", f"{user.content}\n\n{Task('outline-steps')}"),
        Message("assistant", listed.render().rstrip()),
        Message("user", recipe.prompts["outline-groups"].fill()),
    )
    tree = yield from ask(
        record,
        recipe,
        Question("outline", STAGE_VERSIONS["outline"], "outline-groups", second),
        read_groups,
    )
    if isinstance(tree, Rejection):
        return tree
    if recipe.gates.require_block and next(tree.groups(), None) is None:
        return Rejection("outline", "no-group", "the chain has no steps that are independent")
    return replace(record, outline=tree)


def _unfit(record: Record) -> Finding | None:
    if not record.source.strip():
        return Finding("empty-source", "the reasoning chain is empty")
    at = 0
    for part, tag in split_tags(record.source):
        if tag is not None:
            return Finding(
                "tag-in-source",
                f"the source holds a line that is the tag {part}",
                (at, at + len(part)),
                span_in="source",
            )
        at += len(part)
    return None
