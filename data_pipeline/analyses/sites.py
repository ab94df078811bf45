"""Where to probe: the token before a parallel part begins, and sentence ends to compare it with.

A probe reads the sequential form of a trace (its autoregressive twin), causally: whether a parallel
part follows is not to be seen in the text read so far, only in what the model makes of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_multiverse.flatten import flatten
from sglang_multiverse.text import Block, Content, Document, parse_text, serialise

from ..source.sentences import split_sentences, trimmed


@dataclass(frozen=True)
class Marked:
    """The twin of a trace with character offsets. A site lies *after* the character before it.

    Attributes:
        before: where an outermost block's text begins.
        elsewhere: ends of the other sentences of the thought that stand in no block.
    """

    twin: str
    before: tuple[int, ...]
    elsewhere: tuple[int, ...]


def mark(text: str) -> Marked:
    """Mark the twin of ``text``."""
    document = parse_text(text)
    parts = document.answer if document.thought is None else document.thought
    twin = serialise(flatten(document))
    before: list[int] = []
    inside: list[tuple[int, int]] = []
    for index, part in enumerate(parts):
        if isinstance(part, Block):
            start = _site(twin, len(_begun(document, parts[:index]).rstrip()))
            end = len(_begun(document, parts[: index + 1]).rstrip())
            before.append(start)
            inside.append((start, _site(twin, end)))
    limit = _site(twin, len(_begun(document, parts).rstrip()))
    elsewhere = []
    for span in split_sentences(twin):
        at = _site(twin, trimmed(twin, span)[1])
        if at <= limit and not any(start <= at <= end for start, end in inside):
            elsewhere.append(at)
    return Marked(twin, tuple(dict.fromkeys(before)), tuple(dict.fromkeys(elsewhere)))


def _begun(document: Document, parts: Content) -> str:
    """The twin as far as ``parts`` of its thought reach."""
    gaps = dict(document.gaps)
    if document.thought is None:
        cut = Document(answer=parts, head=document.head, gaps=gaps)
    else:
        cut = Document(thought=parts, head=document.head, closed=False, gaps=gaps)
    return serialise(flatten(cut))


def _site(text: str, end: int) -> int:
    """``end``, or the end of the line if that is all that follows."""
    return end + 1 if text.startswith("\n", end) else end


@dataclass(frozen=True)
class Site:
    """One token to probe, at ``index`` of the ids of text ``trace``; ``token`` is its id and
    ``share`` how much of the text lies before it."""

    trace: int
    index: int
    token: int
    share: float
    parallel: bool


@dataclass(frozen=True)
class Matching:
    """Sites in pairs: ``sites[2i]`` has a parallel part after it, ``sites[2i + 1]`` has not.
    ``unmatched`` are those of the first kind for which no counterpart was left."""

    sites: tuple[Site, ...]
    unmatched: int
    same_trace: int


def match(sites: Iterable[Site]) -> Matching:
    """Give every parallel site a counterpart at the same token, so that the token itself tells
    nothing: of the same trace where there is one, else the nearest in index."""
    every = list(sites)
    free: dict[int, list[Site]] = defaultdict(list)
    for one in every:
        if not one.parallel:
            free[one.token].append(one)
    pairs: list[Site] = []
    unmatched = same = 0
    for one in every:
        if not one.parallel:
            continue
        candidates = free[one.token]
        if not candidates:
            unmatched += 1
            continue
        found = min(candidates, key=lambda c: (c.trace != one.trace, abs(c.index - one.index)))
        candidates.remove(found)
        pairs += [one, found]
        same += found.trace == one.trace
    return Matching(tuple(pairs), unmatched, same)


@dataclass(frozen=True)
class Encoded:
    """One text as the model reads it. ``sites`` are those within the first ``max_tokens``."""

    ids: tuple[int, ...]
    sites: tuple[Site, ...]
    beyond: int


def encode(
    trace: int,
    text: str,
    question: str | None,
    messages: Sequence[Mapping[str, str]],
    tokenizer: Any,
    max_tokens: int,
    prompt: str,
) -> Encoded:
    """Encode a trace's twin after its prompt.

    Args:
        tokenizer: a fast tokenizer of transformers; its chat template is used where it has one.
        messages: the prompt as it was given; without it ``question`` and ``prompt`` make one.
    """
    marked = mark(text)
    opening = _opening(question, messages, tokenizer, prompt)
    encoded = tokenizer(
        opening + marked.twin, add_special_tokens=False, return_offsets_mapping=True
    )
    ids = encoded["input_ids"]
    starts = [start for start, _ in encoded["offset_mapping"]]
    sites: dict[int, Site] = {}
    beyond = 0
    for offsets, parallel in ((marked.before, True), (marked.elsewhere, False)):
        for offset in offsets:
            at = _token_before(starts, len(opening) + offset)
            if at is None or at in sites:
                continue
            if at >= max_tokens:
                beyond += parallel
                continue
            sites[at] = Site(trace, at, ids[at], at / len(ids), parallel)
    return Encoded(tuple(ids[:max_tokens]), tuple(sites.values()), beyond)


def _token_before(starts: Sequence[int], offset: int) -> int | None:
    """The index of the token that holds the character before ``offset``."""
    from bisect import bisect_left

    at = bisect_left(starts, offset) - 1
    return at if at >= 0 else None


def _opening(
    question: str | None, messages: Sequence[Mapping[str, str]], tokenizer: Any, prompt: str
) -> str:
    if not messages and question is None:
        return ""
    chat = list(messages) or [{"role": "user", "content": f"{question} {prompt}"}]
    if tokenizer.chat_template:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return text
    return "\n\n".join(message["content"] for message in chat) + "\n\n"
