"""Rows of a corpus and the columns an analysis needs. A bad row is reported, never fatal."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sglang_multiverse.extras import missing
from sglang_multiverse.text import encodable

from ..record import item_id
from ..source.ingest import IngestError, read_rows

#: Columns that may hold what is looked for, in the order they are looked at.
TRACE = ("deepseek_thinking_trajectory_parallel", "output", "text", "completion")
CHAIN = ("deepseek_thinking_trajectory", "chain", "output", "text", "completion")
QUESTION = ("question", "problem", "prompt")


class RowsError(ValueError):
    """A file that cannot be analysed."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used; ``str()`` says which and why."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """One row. ``question`` and ``messages`` (a conversational prompt) are there if the row has
    them; ``id`` is its own, else the hash of its question, else its number."""

    id: str
    text: str
    question: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()


def read(
    file: Path,
    columns: Sequence[str],
    *,
    column: str | None = None,
    question_column: str | None = None,
) -> Iterator[Row | BadRow]:
    """The rows of a JSON-lines, JSON or parquet file, in order.

    Args:
        columns: where the text may be; ``column`` names the one that it is.

    Raises:
        RowsError: the file cannot be read at all.
    """
    for number, raw in _raw(file):
        if isinstance(raw, BadRow):
            yield raw
        elif not isinstance(raw, dict):
            yield BadRow(file.name, number, f"expected an object, got {type(raw).__name__}")
        else:
            yield _row(file.name, number, raw, (column,) if column else columns, question_column)


def distinct(row: Row, known: Container[str]) -> Row:
    """``row``, its id numbered where ``known`` has it: several chains may answer one question."""
    number, key = 1, row.id
    while key in known:
        number += 1
        key = f"{row.id}#{number}"
    return replace(row, id=key)


def _raw(file: Path) -> Iterator[tuple[int, Any]]:
    if file.suffix.lower() in (".parquet", ".json"):
        try:
            yield from enumerate(read_rows(file), start=1)
        except ImportError as error:
            raise RowsError(missing("pyarrow", "data")) from error
        except IngestError as error:
            raise RowsError(str(error)) from error
        return
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    reason = f"not JSON: {error}; every line must be one object"
                    yield number, BadRow(file.name, number, reason)
    except OSError as error:
        raise RowsError(f"{file}: {error.strerror or error}") from error


def _row(
    file: str,
    number: int,
    raw: Mapping[str, Any],
    columns: Sequence[str],
    question_column: str | None,
) -> Row | BadRow:
    name = next((one for one in columns if raw.get(one) is not None), None)
    if name is None:
        wanted = " or ".join(map(repr, columns))
        has = ", ".join(map(repr, raw)) or "none"
        return BadRow(file, number, f"no column {wanted} (it has {has}); name one by --text")
    text = _written(raw[name])
    if text is None or not text.strip():
        return BadRow(file, number, f"column {name!r} holds no text")
    asked = (question_column,) if question_column else QUESTION
    question = next(
        (raw[one] for one in asked if one != name and raw.get(one) is not None),
        None,
    )
    if question_column and question is None:
        return BadRow(file, number, f"no column {question_column!r}, named by --question")
    messages = tuple(question) if _is_chat(question) else ()
    said = _written(question)
    key = raw.get("id")
    if key is None:
        key = item_id(said) if said else number
    return Row(encodable(str(key)), text, said, messages)


def _written(value: Any) -> str | None:
    """A text, or what a list of messages says."""
    if isinstance(value, str):
        return encodable(value)
    if _is_chat(value):
        return encodable("\n\n".join(message["content"] for message in value))
    return None


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict) and isinstance(one.get("content"), str) and "role" in one
            for one in value
        )
    )
