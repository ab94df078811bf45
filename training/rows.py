"""Rows before they are rendered: which columns hold the texts, and what may stand there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from .modes import RowError

#: How texts are given: ready ids, a question and its answer, a dialogue, or one text.
Shape = Literal["input_ids", "prompt", "messages", "conversations", "text"]

WANTED = "'prompt' and 'completion' (texts or messages), or 'messages'"


def shape_of(columns: Sequence[str], name: str, text_field: str) -> Shape:
    """Where the texts of a dataset stand, by TRL's precedence.

    Raises:
        RowError: no column that can be trained on.
    """
    if "input_ids" in columns:
        return "input_ids"
    if "prompt" in columns and "completion" in columns:
        return "prompt"
    for one in ("messages", "conversations"):
        if one in columns and "prompt" not in columns:
            return one  # type: ignore[return-value]
    if text_field in columns and "prompt" not in columns:
        return "text"
    raise RowError(
        f"the {name} dataset has the columns {', '.join(columns)}; training reads {WANTED}: rename "
        f"its columns (a single text goes under dataset_text_field, now {text_field!r})"
    )


def check_row(
    row: Mapping[str, Any],
    index: int,
    name: str,
    shape: Shape,
    text_field: str,
    *,
    conversational: bool,
) -> None:
    """Raise :class:`RowError` unless the texts of ``row`` can be rendered and tokenised.

    Args:
        conversational: the first row holds messages. TRL renders all rows as it does that one.
    """

    def refuse(what: str, remedy: str) -> None:
        raise RowError(f"row {index} of the {name} dataset: {what}; {remedy}")

    if shape == "input_ids":
        _check_ids(row, refuse)
    elif shape == "prompt":
        kinds = {
            key: _check_texts(row[key], key, refuse, empty=key == "prompt")
            for key in ("prompt", "completion")
        }
        if kinds["prompt"] != kinds["completion"]:
            refuse(
                f"prompt is {kinds['prompt']}, completion {kinds['completion']}",
                "give both as texts or both as messages",
            )
        if (kinds["prompt"] == _MESSAGES) != conversational:
            refuse(
                f"prompt is {kinds['prompt']}, and another kind in the first row",
                "give all rows alike, texts or messages",
            )
    elif shape == "text":
        if _check_texts(row[text_field], text_field, refuse) != _TEXT:
            refuse(f"{text_field} holds messages", "name that column 'messages'")
    elif shape == "messages":
        if _check_texts(row["messages"], "messages", refuse) != _MESSAGES:
            refuse("messages is a text", "name that column 'text', or give a list of messages")
        if not any(turn["role"] == "assistant" for turn in row["messages"]):
            refuse("messages hold no assistant's turn", "leave the row out")
    else:
        _check_conversation(row["conversations"], refuse)
    _check_extras(row, refuse)


_TEXT, _MESSAGES = "a text", "messages"
_Refuse = Callable[[str, str], None]


def _check_texts(value: Any, key: str, refuse: _Refuse, empty: bool = False) -> str:
    """Which of the two ``value`` is."""
    if value is None:
        refuse(f"{key} is null", "give every row one, or leave the row out")
    if isinstance(value, str):
        if not value.strip() and not empty:
            refuse(f"{key} is empty", "leave the row out")
        return _TEXT
    if not isinstance(value, list):
        refuse(f"{key} is {_kind(value)}", "give a text, or a list of messages")
    if not value:
        refuse(f"{key} is an empty list", "leave the row out")
    for place, turn in enumerate(value):
        _check_message(turn, f"message {place} of {key}", refuse)
    return _MESSAGES


def _check_message(turn: Any, where: str, refuse: _Refuse) -> None:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        found = f"has {', '.join(map(str, turn))}" if isinstance(turn, Mapping) else _kind(turn)
        refuse(f"{where} is no message ({found})", 'write {"role": "user", "content": "a text"}')
    content = turn.get("content")
    if content is None and not turn.get("tool_calls"):
        refuse(f"{where} has no content", "give it a text, or leave the row out")
    if content is not None and not isinstance(content, str):
        refuse(f"the content of {where} is {_kind(content)}", "join its parts to one text")


def _check_conversation(turns: Any, refuse: _Refuse) -> None:
    wanted = '{"from": "user", "value": "a text"}'
    if not isinstance(turns, list) or not turns:
        refuse("conversations is no list of messages", "leave the row out")
    for place, turn in enumerate(turns):
        held = isinstance(turn, Mapping) and [turn.get("from"), turn.get("value")]
        if not held or not all(isinstance(one, str) for one in held):
            refuse(
                f"message {place} of conversations is none",
                f"write {wanted}, or name the column 'messages'",
            )


def _check_extras(row: Mapping[str, Any], refuse: _Refuse) -> None:
    """What is handed on to the chat template beside the messages."""
    tools, more = row.get("tools"), row.get("chat_template_kwargs")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            refuse(f"tools is no JSON ({error})", "write a list of tools, or leave the column out")
    if tools is not None and not isinstance(tools, list):
        refuse(f"tools is {_kind(tools)}", "write a list of tools, or leave the column out")
    if "chat_template_kwargs" in row and not isinstance(more, Mapping):
        refuse(f"chat_template_kwargs is {_kind(more)}", "write a mapping, or leave the column out")


def _check_ids(row: Mapping[str, Any], refuse: _Refuse) -> None:
    ids, labels = row["input_ids"], row.get("labels")
    if not isinstance(ids, list) or not ids or not all(type(one) is int for one in ids):
        refuse("input_ids is no list of token ids", "tokenise the texts, or leave the row out")
    if labels is not None and not (
        isinstance(labels, list) and all(type(one) is int for one in labels)
    ):
        refuse("labels is no list of token ids", "give one label a token, -100 for no loss")
    if labels is not None and len(labels) != len(ids):
        refuse(
            f"{len(ids)} input_ids, {len(labels)} labels",
            "give one label a token, -100 for no loss",
        )


def _kind(value: Any) -> str:
    return {"list": "a list", "dict": "a mapping", "bool": "true or false"}.get(
        type(value).__name__, f"of the type {type(value).__name__}"
    )
