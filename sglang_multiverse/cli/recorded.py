"""What ``multiverse show`` reads: traces, answers of a server, streams and events it sent."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..corpus import BadRow
from ..text import encodable
from ..view.plain import line
from .traces import TraceText, content, read_bytes


@dataclass(frozen=True)
class Recording:
    """Events as a server sent them."""

    id: str
    events: list[Any]


def choose(path: str, field: str | None = None, wanted: str | None = None) -> TraceText | Recording:
    """The trace with the id ``wanted`` in ``path`` (``-`` is standard input), or the first.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no such trace; the message names those there are.
    """
    seen: list[str] = []
    bad: BadRow | None = None
    for one in entries(path, content(path), field):
        if isinstance(one, BadRow):
            bad = bad or one
        elif wanted is None or one.id == wanted:
            return one
        else:
            seen.append(one.id)
    if wanted is not None and seen:
        more = f" and {len(seen) - 8:,} more" if len(seen) > 8 else ""
        names = ", ".join(map(line, seen[:8]))
        raise ValueError(f"no trace {wanted!r}; there are {names}{more}")
    raise ValueError(str(bad) if bad else f"{path} holds no trace")


def entries(path: str, raw: bytes, field: str | None) -> Iterator[TraceText | Recording | BadRow]:
    """Every trace of a file. With a ``field`` its rows are traces and nothing else."""
    name = "stdin" if path == "-" else Path(path).name
    if field is None:
        raw = _HEADERS.sub(b"", raw.removeprefix(b"\xef\xbb\xbf"))
        answers = list(_of_answer(_json(raw), name))
        if answers:
            yield from answers
            return
        if streams := list(_streams(raw)):
            for number, parts in enumerate(streams, start=1):
                yield from _of_stream(parts, name if number == 1 else f"{name} {number}")
            return
        parsed = [_json(row) for row in raw.splitlines() if row.strip()]
        if parsed and _is_event(parsed[0]):
            cut = parsed[-1] is None  # in the middle of an event
            yield Recording(name, parsed[:-1] if cut else parsed)
            return
        by_line = [list(_of_answer(row, f"{name} {i}")) for i, row in enumerate(parsed, start=1)]
        if any(by_line):
            yield from itertools.chain.from_iterable(by_line)
            return
    yield from read_bytes(path, raw, field, "--field")


#: What ``curl -i`` writes before an answer; more than once behind a proxy.
_HEADERS = re.compile(rb"\A\s*(?:HTTP/[\d.]+ \d{3}[^\n]*\n(?:[^\r\n]+\r?\n)*\r?\n)+")
#: What may stand in a stream of server-sent events before its first data.
_BEFORE_DATA = re.compile(rb"(?:(?::|event:|id:|retry:)[^\r\n]*|[ \t]*)")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _streams(raw: bytes) -> Iterator[list[dict[str, Any]]]:
    """The JSON bodies of each recorded stream of server-sent events; none if it is no such file."""
    rows = iter(raw.splitlines())
    first = next((row for row in rows if not _BEFORE_DATA.fullmatch(row)), b"")
    if not _DATA.match(first):
        return
    parts: list[dict[str, Any]] = []
    ended = False
    for row in itertools.chain([first], rows):
        if not row.startswith(b"data:"):
            continue
        data = row[5:].strip()
        if data == b"[DONE]":
            yield parts
            parts, ended = [], True
        elif isinstance(part := _json(data), dict):
            parts.append(part)
    if parts or not ended:
        yield parts


_DATA = re.compile(rb"data:\s*(?:\{|\[DONE\])")


def _of_answer(body: Any, name: str) -> Iterator[TraceText | Recording]:
    """The texts of one answer, of /generate or of the OpenAI endpoints, or a list of either."""
    if isinstance(body, list) and body and _is_event(body[0]):
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


@dataclass
class _Choice:
    """What a stream has sent of one choice, or of one answer of a batch."""

    texts: list[str] = field(default_factory=list)
    events: list[list[Any]] = field(default_factory=list)
    new_texts: list[str] = field(default_factory=list)
    new_events: list[Any] = field(default_factory=list)

    def told(self, name: str) -> TraceText | Recording | None:
        events = _whole(self.events) or self.new_events
        if events:
            return Recording(name, events)
        text = "".join(_whole(self.texts) or self.new_texts)
        return TraceText(name, encodable(text)) if text else None


def _whole(sent: list[Any]) -> list[Any]:
    """What chunks come to: each holds all so far, or each what is new."""
    if all(b[: len(a)] == a for a, b in itertools.pairwise(sent)):
        return list(sent[-1]) if sent else []
    return [one for part in sent for one in part]


def _of_stream(
    parts: Sequence[dict[str, Any]], name: str
) -> Iterator[TraceText | Recording | BadRow]:
    """The answers of a recorded stream, by the index of their choice: events, or text where there
    are none. The stream may have been cut anywhere."""
    sent: dict[int, _Choice] = {}

    def of(holder: dict[str, Any]) -> _Choice:
        index = holder.get("index")
        return sent.setdefault(index if isinstance(index, int) else 0, _Choice())

    for part in parts:
        more, meta = part.get("multiverse"), part.get("meta_info")
        if isinstance(more, dict) and isinstance(new := more.get("events"), list):
            of(more).new_events += new
        if isinstance(meta, dict) and isinstance(new := meta.get("multiverse_events"), list):
            of(part).events.append(new)
        if isinstance(new := part.get("text"), str):
            of(part).texts.append(new)
        choices = part.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                delta = choice.get("delta")
                new = _joined(delta) if isinstance(delta, dict) else choice.get("text")
                of(choice).new_texts.append(new if isinstance(new, str) else "")
    empty = True
    for index, choice in sorted(sent.items()):
        told = choice.told(f"{name}-{index}" if index else name)
        if told is not None:
            empty = False
            yield told
    if empty:
        yield BadRow(name, 1, _why(parts))


def _why(parts: Sequence[dict[str, Any]]) -> str:
    """Why a stream has nothing to show."""
    for part in parts:
        error = part.get("error")
        if isinstance(error, dict):
            error = error.get("message")
        if isinstance(error, str):
            return f"a stream that holds an error: {line(error)}"
    return "a stream that holds neither events nor text"


def _is_event(one: Any) -> bool:
    if not isinstance(one, dict) or "output" in one:  # a row of traces may have any columns
        return False
    return isinstance(one.get("kind"), str) and "path" in one


__all__ = ["Recording", "choose", "entries"]
