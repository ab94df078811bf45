"""The story of one item, for a reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sglang_multiverse.text import encodable

from ..sampling.drawing import STAGE as DRAWN
from ..store.database import PAGE
from ..store.store import Outcome, Store

#: What a reader is told of an outcome; an item without one is pending.
STATUSES = {"accepted": "accepted", "rejected": "rejected", "error": "failed"}
#: Characters of a question in a list.
_START = 60


def describe(
    store: Store, item: str, run: str | None = None, *, messages: bool = False
) -> Iterator[str]:
    """Lines that tell what was asked for ``item`` and what became of it."""
    row = store.run(run)
    columns = store.columns(item)
    names = json.loads(row["about"]).get("source", {}).get("columns", {})
    question = encodable(str(columns.get(names.get("question", "question"), "")))
    yield f"item {item}, run {row['run']}"
    yield f"question: {question}"
    outcome = store.outcome(row["run"], item)
    keys = set(outcome.keys) if outcome is not None else set()
    yield "calls:"
    for call in store.calls(item):
        yield from _call(call, call["key"] in keys, messages)
    if outcome is None:
        yield "outcome: pending"
        return
    yield from _outcome(outcome)


@dataclass(frozen=True)
class Listed:
    """One item of a run in a line."""

    item: str
    status: str
    stage: str
    code: str
    question: str

    def __str__(self) -> str:
        why = f"{self.stage}: {self.code}" if self.code else ""
        return f"{self.item}  {self.status:<8}  {why:<28}  {self.question}".rstrip()


def listed(
    store: Store, run: str | None = None, *, status: str | None = None, code: str | None = None
) -> Iterator[Listed]:
    """The items of a run in the order of the source, those of one status or code alone if given.

    Args:
        status: as :data:`STATUSES` names it.
    """
    row = store.run(run)
    names = json.loads(row["about"]).get("source", {}).get("columns", {})
    items = json.loads(row["items"])
    for at in range(0, len(items), PAGE):
        page = items[at : at + PAGE]
        outcomes, columns = store.outcomes_of(row["run"], page), store.columns_of(page)
        for item in page:
            one = outcomes.get(item, Outcome(item, "error"))
            said = STATUSES[one.status] if item in outcomes else "pending"
            if status in (None, said) and code in (None, one.code):
                asked = str(columns.get(item, {}).get(names.get("question", "question"), ""))
                question = " ".join(asked.split())
                start = question if len(question) <= _START else f"{question[: _START - 1]}…"
                yield Listed(item, said, one.stage, one.code, start)


def _call(call: Any, used: bool, messages: bool) -> Iterator[str]:
    name = f"{call['stage']} {call['subject']}".rstrip()
    if call["stage"] != DRAWN:  # there the subject is the number of the draw
        name += f", attempt {call['attempt']}"
    said = f"  {name}: {call['failure'] or call['state']}"
    if call["state"] == "done":
        said += (
            f", {call['input_tokens']:,} + {call['output_tokens']:,} tokens, {call['cost']:.4f}, "
            f"{call['seconds']:.1f} s, {call['tries']} request{'s' if call['tries'] > 1 else ''}"
        )
    if call["lost"]:
        said += f", {call['lost']} never answered"
    yield said if used else f"{said} (of another run)"
    if not messages:
        return
    for message in json.loads(call["messages"]):
        yield f"--- {message['role']}\n{message['content']}"
    if call["state"] == "done":
        yield f"--- reply\n{call['reply']}\n---"


def _outcome(outcome: Outcome) -> Iterator[str]:
    result = outcome.result or {}
    if outcome.status == "accepted":
        yield "outcome: accepted"
        for note in result["notes"]:
            yield f"  note {note['code']}: {note['message']}"
        yield f"outline:\n{result['outline']}"
        yield f"text:\n{result['text']}"
        return
    status, stage = STATUSES[outcome.status], outcome.stage
    yield f"outcome: {status} at {stage}: {outcome.code}: {result['message']}"
    for finding in result["findings"]:
        where = f" ({finding['span_in']} {finding['span']})" if finding["span"] else ""
        yield f"  {finding['gate']}/{finding['code']}: {finding['message']}{where}"
