"""A stream that names its paths: what happens to each of them, as it happens, beside the text.

Two ends. In the scheduler :class:`Telling` collects what a tree's journal tells; it goes along with
the request's other figures (``stream.py``). In the process of the HTTP server :class:`EventLog`
turns it into events, with the text of each path decoded by itself, and the OpenAI streams get them
in chunks of their own.

Targets: ``TokenizerManager._coalesce_streaming_chunks`` (of several increments in one it keeps the
last one's ``meta_info``), ``OpenAIServingChat._generate_stream_content`` and
``OpenAIServingCompletion._generate_completion_stream`` (their chunks have no place for
``meta_info``). Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from ...engine.journal import Entry, Journal
from ...engine.tree import Tree
from ..hooks import Hook

#: In ``meta_info``.
KEY = "multiverse_events"
_FIGURES = "multiverse_"
#: What a decoder gives for bytes that are no whole character yet.
_UNFINISHED = "\ufffd"


class Telling:
    """What has happened in a request's tree and has not been sent yet."""

    def __init__(self, tree: Tree):
        self._journal = Journal(tree)
        self._begun = time.monotonic()
        self._pending: list[tuple[float, Entry]] = []

    def look(self, *, ended: bool = False) -> bool:
        """See what is new; whether anything waits to be sent."""
        news = self._journal.news()
        if ended:
            news += self._journal.end()
        now = time.monotonic() - self._begun
        self._pending += ((now, entry) for entry in news)
        return bool(self._pending)

    def take(self) -> list[tuple[float, Entry]]:
        """What waits, with seconds since the request came."""
        pending, self._pending = self._pending, []
        return pending


class PathText:
    """Decodes one path's tokens as they come: text once it is whole characters.

    Args:
        before: the token before the path's first, for tokenizers that decode by it.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()):
        self._decode = decode
        self._ids = list(before)
        self._read = len(self._ids)

    @property
    def last(self) -> list[int]:
        return self._ids[-1:]

    def feed(self, ids: Sequence[int], *, whole: bool = False) -> str:
        """The text that ``ids`` add; with ``whole`` no more come, and nothing is held back."""
        self._ids += ids
        known = self._decode(self._ids[: self._read])
        text = self._decode(self._ids)
        if not whole and text.endswith(_UNFINISHED):
            return ""
        # What is decoded stays as the context of what comes.
        self._ids = self._ids[self._read :] or self._ids[-1:]
        self._read = len(self._ids)
        return text[len(known) :]


class EventLog:
    """The events of one request, in the process that has the tokenizer.

    Attributes:
        events: all of them so far, as they go to the client.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self.events: list[dict[str, Any]] = []
        self._texts = {"": PathText(decode)}

    def add(
        self,
        entries: Sequence[tuple[float, Entry]],
        finish_reason: Any = None,
        figures: Mapping[str, Any] | None = None,
        *,
        trimmed: bool = False,
    ) -> list[dict[str, Any]]:
        """Turn what the scheduler told into events; returns the new ones.

        Args:
            figures: what the ``end`` says of the whole answer.
            trimmed: the token that ended the answer is left out of its text.
        """
        # What ended the answer is a token of the trunk, and the last that is told of it.
        last = trimmed and next(
            (e for _, e in reversed(entries) if e.kind == "text" and not e.path), None
        )
        new: list[dict[str, Any]] = []
        for at, entry in entries:
            shown = entry.ids[:-1] if entry is last else entry.ids
            new += self._events(round(at, 4), entry, shown)
        for event in new:
            if event["kind"] == "end":
                event["finish_reason"] = finish_reason and finish_reason["type"]
                event["figures"] = figures
        self.events += new
        return new

    def _events(self, at: float, entry: Entry, shown: Sequence[int]) -> list[dict[str, Any]]:
        kind, path = entry.kind, entry.path
        event = {"kind": kind, "path": path, "position": entry.position, "t": at}
        if kind == "text":
            text = self._texts[path].feed(shown)
            return [{**event, "tokens": len(entry.ids), "text": text}]
        found = []
        if kind != "join":
            # Bytes that have not become a character by now never will.
            rest = self._texts[path].feed((), whole=True)
            if rest:
                found.append({**event, "kind": "text", "tokens": 0, "text": rest})
        if kind == "fork":
            before = self._texts[path].last
            event["paths"] = [
                {"path": name, "label": self._decode(list(ids)).strip()}
                for name, ids in entry.paths
            ]
            self._texts |= {name: PathText(self._decode, before) for name, _ in entry.paths}
        elif kind == "close":
            del self._texts[path]
        return [*found, event]


def log_of(manager: Any, state: Any) -> EventLog:
    """The log of the request that ``state`` stands for in SGLang's tokenizer manager."""
    log: EventLog | None = state.__dict__.get("multiverse_events")
    if log is None:
        tokenizer, params = manager.tokenizer, state.obj.sampling_params or {}
        hide = params.get("skip_special_tokens", True)

        def decode(ids: list[int]) -> str:
            if tokenizer is None:  # --skip-tokenizer-init: the client has ids and decodes them
                return ""
            text: str = tokenizer.decode(ids, skip_special_tokens=hide)
            return text

        log = state.multiverse_events = EventLog(decode)
    return log


def report(
    manager: Any, meta_info: dict[str, Any], state: Any, told: Any, finish_reason: Any
) -> None:
    """Put a request's events into the ``meta_info`` of what is sent of it now: all so far, or the
    new ones where SGLang streams increments."""
    figures = {key: value for key, value in meta_info.items() if key.startswith(_FIGURES)}
    keeps = (state.obj.sampling_params or {}).get("no_stop_trim", False)
    trimmed = bool(finish_reason) and isinstance(finish_reason.get("matched"), int) and not keeps
    log = log_of(manager, state)
    new = log.add(told, finish_reason, figures, trimmed=trimmed)
    increments = getattr(state.obj, "stream", False) and manager.incremental_streaming_output
    meta_info[KEY] = new if increments else log.events


def _coalesced(result: dict[str, Any], manager: Any, out_list: list[Any], *_: Any) -> Any:
    metas = [chunk["meta_info"] for chunk in out_list if "meta_info" in chunk]
    if any(KEY in meta for meta in metas):
        result["meta_info"][KEY] = [event for meta in metas for event in meta.get(KEY, ())]
    return result


class Increments:
    """Of each choice of one OpenAI stream, the events that have not been sent."""

    def __init__(self, offsets: dict[Any, Any] | None = None):
        self._sent = {} if offsets is None else offsets

    def chunk(self, content: dict[str, Any], head: dict[str, Any], increments: bool) -> str | None:
        """A server-sent event for what ``content`` has that is new, or None."""
        meta, index = content["meta_info"], content.get("index", 0)
        events = meta.get(KEY)
        if events is None:
            return None
        if not increments:
            # Not an index of a choice, so that the stream's own bookkeeping does not see it.
            key = ("multiverse", index)
            events, self._sent[key] = events[self._sent.get(key, 0) :], len(events)
        if not events:
            return None
        body = {**head, "choices": [], "multiverse": {"index": index, "events": events}}
        return f"data: {json.dumps(body)}\n\n"


def _chat_content(
    original: Any, serving: Any, content: Any, index: Any, request: Any, created: Any, **rest: Any
) -> AsyncIterator[str]:
    chunks = original(
        serving, content=content, index=index, request=request, created=created, **rest
    )
    if KEY not in content["meta_info"]:
        found: AsyncIterator[str] = chunks
        return found

    async def both() -> AsyncIterator[str]:
        async for chunk in chunks:
            yield chunk
        head = {
            "id": content["meta_info"]["id"],
            "object": "chat.completion.chunk",
            "created": created,
            "model": request.model,
        }
        increments = serving.tokenizer_manager.incremental_streaming_output
        extra = Increments(rest["stream_offsets"]).chunk(content, head, increments)
        if extra is not None:
            yield extra

    return both()


class _Tapped:
    """SGLang's tokenizer manager, seen by one completion stream: keeps what it generates last."""

    def __init__(self, manager: Any):
        self._manager = manager
        self.latest: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    async def generate_request(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for content in self._manager.generate_request(*args, **kwargs):
            self.latest.append(content)
            yield content

    def drain(self) -> Iterator[dict[str, Any]]:
        latest, self.latest = self.latest, []
        yield from latest


def _completion_stream(
    original: Any, serving: Any, adapted_request: Any, request: Any, raw_request: Any
) -> AsyncIterator[str]:
    params = request.custom_params if hasattr(request, "custom_params") else None
    if not (isinstance(params, dict) and isinstance(params.get("multiverse"), dict)):
        plain: AsyncIterator[str] = original(serving, adapted_request, request, raw_request)
        return plain
    tapped = _Tapped(serving.tokenizer_manager)
    seen = copy.copy(serving)
    seen.tokenizer_manager = tapped

    async def both() -> AsyncIterator[str]:
        increments = Increments()
        created = int(time.time())
        async for chunk in original(seen, adapted_request, request, raw_request):
            yield chunk
            for content in tapped.drain():
                head = {
                    "id": content["meta_info"]["id"],
                    "object": "text_completion",
                    "created": created,
                    "model": request.model,
                }
                extra = increments.chunk(content, head, tapped.incremental_streaming_output)
                if extra is not None:
                    yield extra

    return both()


#: In the process of the HTTP server and the tokenizer.
MAIN_HOOKS = (
    Hook(
        "sglang.srt.managers.tokenizer_manager.TokenizerManager._coalesce_streaming_chunks",
        HookType.AFTER,
        _coalesced,
        ("self", "out_list", "rid", "customized_info_keys"),
    ),
    Hook(
        "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._generate_stream_content",
        HookType.AROUND,
        _chat_content,
        (
            *("self", "content", "index", "request", "created", "stream_offsets"),
            *("reasoning_parser_dict", "parser_dict", "has_tool_calls", "choice_logprobs"),
            *("finish_reason_type", "continuous_usage_stats", "prompt_tokens"),
            *("reasoning_tokens", "completion_tokens"),
        ),
    ),
    Hook(
        "sglang.srt.entrypoints.openai.serving_completions.OpenAIServingCompletion"
        "._generate_completion_stream",
        HookType.AROUND,
        _completion_stream,
        ("self", "adapted_request", "request", "raw_request"),
    ),
)

__all__ = ["KEY", "MAIN_HOOKS", "EventLog", "Increments", "PathText", "Telling", "report"]
