"""What ``multiverse show`` reads: traces, answers of a server, streams and events it sent."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..text import encodable
from .traces import BadLine, TraceText, read_bytes


@dataclass(frozen=True)
class Recording:
    """Events as a server sent them."""

    id: str
    events: list[dict[str, Any]]


def choose(path: str, field: str | None = None, wanted: str | None = None) -> TraceText | Recording:
    """The trace with the id ``wanted`` in ``path`` (``-`` is standard input), or the first.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no such trace; the message names those there are.
    """
    raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    seen: list[str] = []
    bad: BadLine | None = None
    for one in entries(path, raw, field):
        if isinstance(one, BadLine):
            bad = bad or one
        elif wanted is None or one.id == wanted:
            return one
        else:
            seen.append(one.id)
    if wanted is not None and seen:
        more = f" and {len(seen) - 8:,} more" if len(seen) > 8 else ""
        raise ValueError(f"no trace {wanted!r}; there are {', '.join(seen[:8])}{more}")
    raise ValueError(str(bad) if bad else f"{path} holds no trace")


def entries(path: str, raw: bytes, field: str | None) -> Iterator[TraceText | Recording | BadLine]:
    """Every trace of a file. With a ``field`` its rows are traces and nothing else."""
    name = "stdin" if path == "-" else Path(path).name
    if field is None:
        answers = list(_of_answer(_json(raw), name))
        if answers:
            yield from answers
            return
        parsed = [_json(line) for line in map(_data, raw.splitlines()) if line]
        if raw.lstrip().startswith(b"data:"):
            yield _of_stream([part for part in parsed if isinstance(part, dict)], name)
            return
        if parsed and all(_is_event(part) for part in parsed):
            yield Recording(name, parsed)
            return
        by_line = [list(_of_answer(row, f"{name} {i}")) for i, row in enumerate(parsed, start=1)]
        if any(by_line):
            yield from itertools.chain.from_iterable(by_line)
            return
    yield from read_bytes(path, raw, field)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _data(line: bytes) -> bytes:
    """A line, without the ``data:`` of a server-sent event; empty where it says nothing."""
    line = line.strip()
    line = line[5:].strip() if line.startswith(b"data:") else line
    return b"" if line == b"[DONE]" else line


def _of_answer(body: Any, name: str) -> Iterator[TraceText | Recording]:
    """The texts of one answer, of /generate or of the OpenAI endpoints, or a list of either."""
    if isinstance(body, list) and body and all(_is_event(one) for one in body):
        yield Recording(name, body)
        return
    for number, one in enumerate(body if isinstance(body, list) else [body]):
        if not isinstance(one, dict):
            continue
        meta = one.get("meta_info")
        if isinstance(meta, dict) and isinstance(one.get("text"), str):
            yield _told(str(meta.get("id") or name), one["text"], meta)
        choices = one.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            text = _of_choice(choice)
            if text is not None:
                label = str(one.get("id", f"{name} {number}"))
                index = choice.get("index", 0)
                meta = choice.get("meta_info") or one.get("metadata") or {}
                yield _told(f"{label}-{index}" if index else label, text, meta)


def _told(name: str, text: str, meta: Any) -> TraceText | Recording:
    events = meta.get("multiverse_events") if isinstance(meta, dict) else None
    if isinstance(events, list) and events:
        return Recording(encodable(name), events)
    return TraceText(encodable(name), encodable(text))


def _of_choice(choice: Any) -> str | None:
    """The text of a choice, with the thought that a reasoning parser has split off."""
    if not isinstance(choice, dict):
        return None
    message = choice.get("message")
    if isinstance(message, dict):
        return _joined(message)
    text = choice.get("text")
    return text if isinstance(text, str) else None


def _joined(message: dict[str, Any]) -> str | None:
    """Thought and answer of a message or of a piece of one."""
    parts = (message.get("reasoning_content"), message.get("content"))
    return "".join(part for part in parts if isinstance(part, str)) or None


def _of_stream(parts: Sequence[dict[str, Any]], name: str) -> TraceText | Recording | BadLine:
    """The first answer of a recorded stream: its events, or its text where it has none. The stream
    may have been cut anywhere."""
    events: list[dict[str, Any]] = []
    text = ""
    for part in parts:
        sent, meta = part.get("multiverse"), part.get("meta_info")
        if isinstance(sent, dict) and not sent.get("index"):
            events += sent.get("events") or []
        if isinstance(meta, dict) and isinstance(new := meta.get("multiverse_events"), list):
            events = new if new[: len(events)] == events else events + new
        if isinstance(new := part.get("text"), str):
            text = new if new.startswith(text) else text + new
        for choice in part.get("choices") or ():
            if isinstance(choice, dict) and not choice.get("index"):
                delta = choice.get("delta")
                more = _joined(delta) if isinstance(delta, dict) else choice.get("text")
                text += more if isinstance(more, str) else ""
    if events:
        return Recording(name, events)
    if text:
        return TraceText(name, encodable(text))
    return BadLine(name, 1, "a stream that holds neither events nor text")


def _is_event(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("kind"), str) and "path" in one


__all__ = ["Recording", "choose", "entries"]
