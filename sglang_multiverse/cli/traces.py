"""Traces of a file: rows of a corpus, or one plain text. A bad row is reported, never fatal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..corpus import TEXT, BadRow, Fields, identity, name_of, rows, rows_of, text_of
from ..text import encodable


@dataclass(frozen=True)
class TraceText:
    """One text to inspect."""

    id: str
    text: str


def read(path: str, field: str | None = None) -> Iterator[TraceText | BadRow]:
    """The traces of ``path`` (``-`` is standard input) in file order.

    Args:
        field: the field that holds the text; None looks for those of :data:`..corpus.TEXT`.

    Raises:
        OSError, CorpusError: the file cannot be read.
    """
    if path != "-" and (field is not None or _holds_rows(path)):
        yield from _texts(rows(path), name_of(path), field)
    else:
        yield from read_bytes(path, content(path), field)


def content(path: str) -> bytes:
    """What the file ``path`` holds, or standard input (``-``).

    Raises:
        OSError: it cannot be read.
    """
    if path != "-":
        return Path(path).read_bytes()
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read()


def read_bytes(
    path: str, raw: bytes, field: str | None = None, option: str = "--text"
) -> Iterator[TraceText | BadRow]:
    """:func:`read`, of what ``path`` holds; ``option`` is the one that names the field."""
    source = name_of(path)
    if not raw.strip():
        yield BadRow(source, 1, "the file is empty")
    elif raw.startswith(b"PAR1"):
        yield BadRow(source, 1, "a parquet file; name it .parquet")
    elif field is not None or _holds_rows(path) or _begins_with_object(path, raw):
        yield from _texts(rows_of(raw, source), source, field, option)
    else:
        try:
            yield TraceText(Path(source).name, raw.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            number = raw.count(b"\n", 0, error.start) + 1
            yield BadRow(source, number, f"not UTF-8: {error.reason}")


def _texts(
    found: Iterable[tuple[int, Fields] | BadRow],
    source: str,
    field: str | None,
    option: str = "--text",
) -> Iterator[TraceText | BadRow]:
    for one in found:
        if isinstance(one, BadRow):
            yield one
            continue
        number, row = one
        try:
            text = text_of(row, (field,) if field else TEXT, option)
        except LookupError as error:
            yield BadRow(source, number, str(error))
        else:
            yield TraceText(identity(row, number), encodable(text))


def _holds_rows(path: str) -> bool:
    bare = path.lower().removesuffix(".gz")
    return bare.endswith((".jsonl", ".ndjson", ".json", ".parquet"))


def _begins_with_object(path: str, raw: bytes) -> bool:
    """Whether a file of another name, and no text by it, holds JSON lines."""
    if path.lower().endswith((".txt", ".md")):
        return False
    try:
        return isinstance(json.loads(raw.strip().split(b"\n", 1)[0]), dict)
    except (ValueError, RecursionError):
        return False
