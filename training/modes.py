"""Rows of a dataset, made over: the autoregressive twin, and the sentence that chooses the mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ..dialect import MULTIVERSE, DialectSpec
from ..flatten import flatten_text
from ..text import parse_text

PromptMode = Literal["as-is", "parallel", "sequential", "auto"]

Row = dict[str, Any]


class RowError(ValueError):
    """A row without the texts that were to be made over."""


def to_autoregressive(row: Row, spec: DialectSpec = MULTIVERSE) -> Row:
    """The same row with every answer flattened, asked for step by step.

    Takes ``prompt`` and ``completion`` (each a text or messages) or ``messages``.
    """
    flat = _answers(row, lambda text: flatten_text(text, spec))
    return with_prompt_mode(flat, "sequential", spec, only_replace=True)


def with_prompt_mode(
    row: Row, mode: PromptMode, spec: DialectSpec = MULTIVERSE, *, only_replace: bool = False
) -> Row:
    """The same row, its last question ending in the sentence of ``mode``.

    ``auto`` asks for what the answer is: in parallel where it holds a block. A sentence that is
    there already is replaced. With ``only_replace`` a question without one is left alone.
    """
    if mode == "as-is":
        return row
    if mode == "auto":
        blocks: list[Any] = []
        _answers(row, lambda text: blocks.extend(parse_text(text, spec).blocks) or text)
        mode = "parallel" if blocks else "sequential"
    wanted = spec.parallel_prompt if mode == "parallel" else spec.sequential_prompt

    def ending(text: str) -> str:
        body = text.rstrip()
        for known in (spec.parallel_prompt, spec.sequential_prompt):
            if body.endswith(known):
                return f"{body.removesuffix(known).rstrip()} {wanted}"
        return text if only_replace else f"{body} {wanted}"

    if "prompt" in row and isinstance(row["prompt"], str):
        text = row["prompt"]
        space = text[len(text.rstrip()) :]  # the answer goes on right behind it
        return {**row, "prompt": ending(text).rstrip() + space}
    key = "prompt" if "prompt" in row else "messages"
    turns = [i for i, turn in enumerate(row.get(key) or ()) if turn["role"] == "user"]
    if not turns:
        raise RowError(f"no user turn under {key!r} to choose a mode in; columns: {sorted(row)}")
    messages = [dict(turn) for turn in row[key]]
    messages[turns[-1]]["content"] = ending(messages[turns[-1]]["content"])
    return {**row, key: messages}


def _answers(row: Row, change: Callable[[str], str]) -> Row:
    """``row`` with ``change`` applied to what the model is to write."""
    if isinstance(row.get("completion"), str):
        return {**row, "completion": change(row["completion"])}
    key = "completion" if "completion" in row else "messages"
    if not row.get(key):
        raise RowError(
            "expected columns 'prompt' and 'completion', or 'messages', to change the answers of; "
            f"found {sorted(row)}"
        )
    turns = [
        {**turn, "content": change(turn["content"])}
        if turn["role"] == "assistant" and turn["content"]
        else turn
        for turn in row[key]
    ]
    return {**row, key: turns}
