"""Rows of a corpus, for every command that reads one: JSON lines, JSON or parquet.

A row that cannot be used is handed out as a :class:`BadRow` and costs nothing else; a file that
cannot be read at all is a :class:`CorpusError`. Rows are read as they are needed.

Standard library only; parquet needs pyarrow.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .extras import missing
from .text import encodable

#: Columns that may hold what is looked for, in the order they are looked at. ``text`` comes first:
#: an export of ``multiverse curate`` has the whole trace there and its thought alone in the column
#: of the published corpus, where answers would be missed.
TEXT = ("text", "deepseek_thinking_trajectory_parallel", "output", "completion")
CHAIN = ("deepseek_thinking_trajectory", "chain", "output", "text", "completion")
QUESTION = ("question", "problem", "prompt")
ANSWER = ("answer", "solution")
ID = ("id", "uuid")
#: Columns by which a row is known for one that ``multiverse curate export`` wrote.
EXPORTED = ("text", "text_sequential", "deepseek_attempt", "run")

Fields = Mapping[str, Any]


class CorpusError(ValueError):
    """A file that cannot be read; the message says which, why, and what to do."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used; ``str()`` says where and why.

    Attributes:
        row: its line in a file of lines, its number from 1 in others.
    """

    source: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.row}: {self.reason}"


def rows(path: str) -> Iterator[tuple[int, Fields] | BadRow]:
    """The rows of ``path`` (``-`` is standard input, JSON lines), each with its number.

    By its suffix a file is parquet (``.parquet``), JSON (``.json``: a list of objects, one object,
    or lines all the same) or, whatever else it is called, JSON lines; what ends in ``.gz`` is
    unpacked.

    Raises:
        CorpusError: the file cannot be read, or is no parquet though it is named so.
    """
    source = name_of(path)
    try:
        if path == "-":
            yield from lines(_stdin(), source)
        elif path.lower().endswith(".parquet"):
            yield from _parquet(path)
        else:
            with closing(_opened(path)) as file:
                bare = path.lower().removesuffix(".gz")
                if bare.endswith(".json"):
                    yield from rows_of(file.read(), source)
                else:
                    yield from lines(file, source)
    except BrokenPipeError:  # of who reads what we write
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"no .gz that can be unpacked: {error}; it is damaged or cut, make it anew"
        raise CorpusError(f"{path}: {reason}") from error
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}") from error


def rows_of(content: bytes, source: str) -> Iterator[tuple[int, Fields] | BadRow]:
    """The rows of a file's content: one JSON value, or JSON lines."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield from lines(io.BytesIO(content), source)
        return
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        yield _checked(row, source, number)


def lines(file: Iterable[bytes], source: str) -> Iterator[tuple[int, Fields] | BadRow]:
    """The rows of JSON lines; lines of white space count and hold none."""
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8"
            yield BadRow(source, number, reason)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON: {error}; every line must be one JSON object"
            yield BadRow(source, number, reason)
        else:
            yield _checked(row, source, number)


def name_of(path: str) -> str:
    """``path`` in messages."""
    return "stdin" if path == "-" else path


def find(row: Fields, columns: Sequence[str], option: str) -> str:
    """The first of ``columns`` that ``row`` has a value in.

    Raises:
        LookupError: it has none; the message names ``option``, which names another.
    """
    for name in columns:
        if row.get(name) is not None:
            return name
    wanted = " or ".join(map(repr, columns))
    has = ", ".join(map(repr, row)) or "none"
    raise LookupError(f"no field {wanted} (it has {has}); name the one that it is by {option}")


def text_of(row: Fields, columns: Sequence[str], option: str = "--text") -> str:
    """The first text in ``columns`` of ``row``: a string, or what the assistant says in a list of
    messages.

    Raises:
        LookupError: it has none.
    """
    name = find(row, columns, option)
    for column in columns:
        value: Any = row.get(column)
        if is_chat(value):
            value = [one for one in value if one["role"] == "assistant"]
        if (said := written(value)) is not None:
            return said
    if is_chat(row[name]):
        raise LookupError(f"field {name!r} holds messages, but none of the role 'assistant'")
    raise LookupError(f"field {name!r} holds {type(row[name]).__name__}, not text")


def written(value: Any) -> str | None:
    """A text, or what a list of messages says; None of anything else."""
    if isinstance(value, str):
        return encodable(value)
    if is_chat(value):
        return encodable("\n\n".join(message["content"] for message in value))
    return None


def is_chat(value: Any) -> bool:
    """Whether ``value`` is a list of messages, each with ``role`` and a ``content`` of text."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict) and isinstance(one.get("content"), str) and "role" in one
            for one in value
        )
    )


def identity(row: Fields, default: object) -> str:
    """The row's own id, or ``default``."""
    return encodable(str(next((row[name] for name in ID if row.get(name) is not None), default)))


def _checked(row: Any, source: str, number: int) -> tuple[int, Fields] | BadRow:
    if isinstance(row, dict):
        return number, row
    return BadRow(source, number, f"expected a JSON object, got {type(row).__name__}")


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise CorpusError("standard input is closed")
    return sys.stdin.buffer


def _opened(path: str) -> BinaryIO:
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return Path(path).open("rb")


def _parquet(path: str) -> Iterator[tuple[int, Fields] | BadRow]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise CorpusError(f"{path}: {missing('pyarrow', 'data')}") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from _of_batch(batch, path, number)
                number += batch.num_rows
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: no parquet that can be read: {error}") from error


def _of_batch(batch: Any, path: str, before: int) -> Iterator[tuple[int, Fields] | BadRow]:
    """The rows of a record batch; ``before`` are the rows of the file before it."""
    names = batch.schema.names
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise CorpusError(f"{path}: two columns are called {twice[0]!r}; rename one")
    try:
        read = batch.to_pylist()
    except (ValueError, OverflowError):  # which value it is is told below
        pass
    else:
        yield from enumerate(read, start=before + 1)
        return
    for at in range(batch.num_rows):
        row, number = {}, before + at + 1
        try:
            for name in names:
                row[name] = batch.column(name)[at].as_py()
        except UnicodeDecodeError as error:
            reason = f"column {name!r} is not UTF-8: {error.reason} at byte {error.start}"
            yield BadRow(path, number, f"{reason}; write it as UTF-8")
        except (ValueError, OverflowError) as error:
            reason = f"column {name!r} holds a value that cannot be read: {error}"
            yield BadRow(path, number, f"{reason}; cast the column, or leave it out")
        else:
            yield number, row
