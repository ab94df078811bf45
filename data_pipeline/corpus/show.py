"""The story of one item, for a reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sglang_multiverse.text import encodable

from ..store.store import Outcome, Store


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


def _call(call: Any, used: bool, messages: bool) -> Iterator[str]:
    name = f"{call['stage']} {call['subject']}".rstrip()
    said = f"  {name}, attempt {call['attempt']}: {call['failure'] or call['state']}"
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
    yield f"outcome: {outcome.status} at {outcome.stage}: {outcome.code}: {result['message']}"
    for finding in result["findings"]:
        where = f" ({finding['span_in']} {finding['span']})" if finding["span"] else ""
        yield f"  {finding['gate']}/{finding['code']}: {finding['message']}{where}"
