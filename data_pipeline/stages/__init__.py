"""The stages: generators from a record to a record or a rejection.

A stage yields the calls it needs and is sent their replies. It reads no file, clock or network, so
the same replies always make the same record, whoever drives it: the pipeline, Ray, a test::

    steps = outline(record, recipe)
    call = next(steps)
    call = steps.send(reply)      # … until StopIteration.value, a Record or a Rejection
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..gates import check_right
from ..recipe import Recipe
from ..record import Record, Rejection
from . import assembling, filling, framing, judging, outlining, rewriting
from .asking import Steps

Stage = Callable[[Record, Recipe], Steps]

STAGES: dict[str, Stage] = {
    "outline": outlining.outline,
    "fill": filling.fill,
    "frame": framing.frame,
    "rewrite": rewriting.rewrite,
    "judge": judging.judge,
    "assemble": assembling.assemble,
}


def curate(record: Record, recipe: Recipe) -> Steps:
    """All stages one after another, up to the first rejection."""
    if recipe.right_answers:
        found = check_right(record.source, record.attempt, record.answer or "", recipe.gates)
        if found and found[0].code == "wrong-answer":
            return Rejection.of("source", found)
        record = replace(record, notes=(*record.notes, *found))
    for stage in STAGES.values():
        result = yield from stage(record, recipe)
        if isinstance(result, Rejection):
            return result
        record = result
    return record


__all__ = ["STAGES", "Recipe", "Stage", "Steps", "curate"]
