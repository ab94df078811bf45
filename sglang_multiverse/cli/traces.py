"""Reading traces from a file: JSON lines or plain text. A bad line is reported, never fatal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..text import encodable

#: Fields that may hold the text of a trace, in the order they are looked for.
FIELDS = ("output", "text")


@dataclass(frozen=True)
class TraceText:
    """One text to inspect."""

    id: str
    text: str


@dataclass(frozen=True)
class BadLine:
    """A line that holds no trace; ``str()`` says where and why."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


def read(path: str, field: str | None = None) -> Iterator[TraceText | BadLine]:
    """The traces of ``path`` (``-`` is standard input) in file order.

    Args:
        field: the field that holds the text; None looks for ``output``, then ``text``.

    Raises:
        OSError: the file cannot be read.
    """
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


def read_bytes(path: str, raw: bytes, field: str | None = None) -> Iterator[TraceText | BadLine]:
    """:func:`read`, of what ``path`` holds."""
    source = "stdin" if path == "-" else path
    if not raw.strip():
        yield BadLine(source, 1, "the file is empty")
    elif raw.startswith(b"PAR1"):
        yield BadLine(source, 1, "a Parquet file; multiverse analyse parallelism reads those")
    elif field is not None or _json_lines(path, raw):
        for number, line in enumerate(raw.split(b"\n"), start=1):
            if line.strip():
                yield _row(source, number, line, field)
    else:
        try:
            yield TraceText(Path(source).name, raw.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            number = raw.count(b"\n", 0, error.start) + 1
            yield BadLine(source, number, f"not UTF-8: {error.reason}")


def _json_lines(path: str, raw: bytes) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return True
    if suffix in (".txt", ".md"):
        return False
    try:
        return isinstance(json.loads(raw.strip().split(b"\n", 1)[0]), dict)
    except ValueError:
        return False


def _row(source: str, number: int, line: bytes, field: str | None) -> TraceText | BadLine:
    def bad(reason: str) -> BadLine:
        return BadLine(source, number, reason)

    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return bad(f"not UTF-8: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return bad(f"not JSON: {error}")
    if not isinstance(row, dict):
        return bad(f"expected a JSON object, got {type(row).__name__}")
    there = [name for name in FIELDS if name in row]
    named = (name for name in there if isinstance(row[name], str))
    name = field or next(named, there[0] if there else None)
    if name is None or name not in row:
        wanted = repr(field) if field else " or ".join(map(repr, FIELDS))
        return bad(f"no field {wanted}; it has {', '.join(map(repr, row)) or 'none'}")
    text = row[name]
    if not isinstance(text, str):
        return bad(f"field {name!r} holds {type(text).__name__}, not text")
    return TraceText(encodable(str(row.get("id", number))), encodable(text))
