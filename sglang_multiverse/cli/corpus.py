"""Reading a corpus of curated texts: JSON lines or parquet. A bad line is reported, never fatal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..extras import missing
from ..text import encodable
from .traces import BadLine

#: Fields that may hold the text, its source and its reference answer, in the order they are
#: looked for: first the columns of the published corpus.
TEXT_FIELDS = ("deepseek_thinking_trajectory_parallel", "output", "text")
SOURCE_FIELDS = ("deepseek_thinking_trajectory",)
ANSWER_FIELDS = ("answer", "solution")
ID_FIELDS = ("id", "uuid")


@dataclass(frozen=True)
class Item:
    """One text of a corpus, with what it is to be held to."""

    id: str
    text: str
    source: str | None
    answer: str | None


@dataclass(frozen=True)
class Fields:
    """Names of the fields to read; None looks for the known ones."""

    text: str | None = None
    source: str | None = None
    answer: str | None = None


def read_corpus(path: str, fields: Fields) -> Iterator[Item | BadLine]:
    """The items of ``path`` (``-`` is standard input) in file order, read as they are needed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is named ``.parquet`` and is none, or pyarrow is missing.
    """
    source = "stdin" if path == "-" else path
    rows = _parquet(path) if path.endswith(".parquet") else _json_lines(path, source)
    for number, row in rows:
        yield row if isinstance(row, BadLine) else _item(source, number, row, fields)


def _parquet(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(missing("pyarrow", "data")) from error
    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _json_lines(path: str, source: str) -> Iterator[tuple[int, Mapping[str, Any] | BadLine]]:
    if path == "-":
        yield from _parsed(sys.stdin.buffer, source)
        return
    with Path(path).open("rb") as file:
        yield from _parsed(file, source)


def _parsed(lines: Any, source: str) -> Iterator[tuple[int, Mapping[str, Any] | BadLine]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _row(source, number, line)


def _row(source: str, number: int, line: bytes) -> Mapping[str, Any] | BadLine:
    remedy = "every line must be one JSON object"
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8"
        return BadLine(source, number, reason)
    except (ValueError, RecursionError) as error:
        return BadLine(source, number, f"not JSON: {error}; {remedy}")
    if not isinstance(row, dict):
        return BadLine(source, number, f"holds {type(row).__name__}; {remedy}")
    return row


def _item(source: str, number: int, row: Mapping[str, Any], fields: Fields) -> Item | BadLine:
    def bad(reason: str) -> BadLine:
        return BadLine(source, number, reason)

    name = fields.text or next((name for name in TEXT_FIELDS if name in row), None)
    if name is None or name not in row:
        wanted = repr(name) if name else " or ".join(map(repr, TEXT_FIELDS))
        has = ", ".join(map(repr, row)) or "none"
        return bad(f"no field {wanted} (it has {has}); name the one with the text by --text")
    if not isinstance(row[name], str):
        return bad(f"field {name!r} holds {type(row[name]).__name__}, not text")
    given: list[str | None] = []
    for wanted_field, known, option in (
        (fields.source, SOURCE_FIELDS, "--source"),
        (fields.answer, ANSWER_FIELDS, "--answer"),
    ):
        if wanted_field is not None and wanted_field not in row:
            return bad(f"no field {wanted_field!r}; name another by {option}, or leave it out")
        found = wanted_field or next((field for field in known if field in row), None)
        value = row[found] if found else None
        given.append(encodable(str(value)) if value is not None else None)
    key = next((str(row[field]) for field in ID_FIELDS if row.get(field) is not None), str(number))
    return Item(encodable(key), encodable(row[name]), given[0], given[1])
