"""One step of one item: a reply in, the next call or what became of the item out."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

from sglang_multiverse.text import parse_text

from .recipe import Recipe
from .record import Record, Rejection
from .sampling.drawing import sample
from .stages import Steps, curate
from .store.runs import Outcome
from .teacher.call import Call, Reply

#: Characters kept of an unforeseen error's message and traceback.
MESSAGE, TRACEBACK = 500, 20_000


def begin(record: Record, recipe: Recipe) -> Steps:
    """The stages of ``record``: curation, or drawing answers where the recipe says so."""
    return (sample if recipe.draws is not None else curate)(record, recipe)


def advance(record: Record, steps: Steps, reply: Reply | None) -> Call | Outcome:
    """Send ``reply`` to the stages of ``record``; None begins them. An error of this code is an
    outcome of the item."""
    try:
        return _step(record, steps, reply)
    except Exception as error:
        return unforeseen(record.id, error)


def _step(record: Record, steps: Steps, reply: Reply | None) -> Call | Outcome:
    try:
        call = next(steps) if reply is None else steps.send(reply)
    except StopIteration as end:
        return outcome_of(record, end.value)
    _ = call.key  # worked out here, and kept with it
    return call


def unforeseen(item: str, error: Exception) -> Outcome:
    """The outcome of an item at which this code failed: an error, with its traceback."""
    result = {
        "message": f"{type(error).__name__}: {error}"[:MESSAGE],
        "span": None,
        "findings": [],
        "traceback": "".join(traceback.format_exception(error))[-TRACEBACK:],
    }
    return Outcome(item, "error", "unforeseen", type(error).__name__, result)


def outcome_of(record: Record, result: Record | Rejection, keys: Sequence[str] = ()) -> Outcome:
    """``result`` as the store keeps it."""
    if isinstance(result, Rejection):
        return Outcome(
            record.id, "rejected", result.stage, result.code, _rejected(result), tuple(keys)
        )
    return Outcome(record.id, "accepted", result=_accepted(result), keys=tuple(keys))


def _accepted(record: Record) -> dict[str, Any]:
    return {
        "text": record.text,
        "outline": record.outline.render() if record.outline else "",
        "notes": [finding.row() for finding in record.notes],
        "blocks": {"proposed": record.proposed, "kept": len(parse_text(record.text).blocks)},
        **record.details,
    }


def _rejected(rejection: Rejection) -> dict[str, Any]:
    return {
        "message": rejection.message,
        "span": rejection.span,
        "findings": [finding.row() for finding in rejection.findings],
        **rejection.details,
    }
