"""A trace as events: what happened to each path, in the order of the text.

The same events come from a server while it writes, so one reader (:mod:`.lanes` here,
``timeline.js`` on the page) serves both. An event is a JSON object::

    {"kind": "text",  "path": "1.2", "position": 43, "tokens": 18, "text": "<Path>\\n2: …"}
    {"kind": "fork",  "path": "",    "position": 43, "paths": [{"path": "1.1", "label": "1: …"}, …]}
    {"kind": "close", "path": "1.2", "position": 61}
    {"kind": "join",  "path": "",    "position": 70}
    {"kind": "end",   "path": "",    "position": 95, "figures": {"multiverse_forks": 1, …}}

``path`` is ``""`` for the trunk, else block and path in turn, counted from 1 within the sequence
around them: ``"2.1"`` is the first path of the second block, ``"2.1.1.3"`` the third path of the
first block inside it. A server adds ``t``, seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..layout import Layout
from ..parallelism import Parallelism
from ..structure import Block, Trace

Event = dict[str, Any]

#: ``text_of(start, end)`` is the text of tokens ``[start, end)``.
TextOf = Callable[[int, int], str]


@dataclass(frozen=True)
class _Sequence:
    """What is left to tell of the trunk or of one path: tokens ``[start, end)``."""

    path: str
    start: int
    end: int
    blocks: Sequence[Block]
    told: int = 0  # of the blocks


def events_of(
    trace: Trace, laid: Layout, text_of: TextOf, measures: Parallelism | None = None
) -> list[Event]:
    """The events of a parsed text. Text comes in runs, one between two changes of structure.

    Never raises on content: what did not fork is text, what did not join has no ``join``.

    Args:
        laid: the layout of ``trace``; every position is read from it.
        measures: figures that the ``end`` tells, under the names a server gives them.
    """
    events: list[Event] = []
    work: list[_Sequence | Event] = [_Sequence("", 0, trace.length, trace.blocks)]
    while work:  # no recursion: a text may nest deeper than Python's stack
        one = work.pop()
        if isinstance(one, dict):
            events.append(one)
        elif one.told == len(one.blocks):
            events += _texts(one, one.end, laid, text_of)
        else:
            block = one.blocks[one.told]
            events += _texts(one, block.region_start, laid, text_of)
            work += reversed(list(_forked(one, block, laid, text_of)))
    end: Event = {"kind": "end", "path": "", "position": laid.critical_path}
    if measures is not None:
        end["figures"] = _figures(measures)
    return [*events, end]


def _texts(one: _Sequence, end: int, laid: Layout, text_of: TextOf) -> Iterator[Event]:
    """Text ``[one.start, end)``, cut where a block of the sequence begins or ends."""
    edges = {edge for block in one.blocks for edge in (block.start, block.end)}
    inside = sorted(edge for edge in edges if one.start < edge < end)
    for first, last in pairwise([one.start, *inside, end]):
        if first < last:
            yield {
                "kind": "text",
                "path": one.path,
                "position": int(laid.position[first]),
                "tokens": last - first,
                "text": text_of(first, last),
            }


def _forked(
    one: _Sequence, block: Block, laid: Layout, text_of: TextOf
) -> Iterator[_Sequence | Event]:
    """A fork, its paths, its join, and the rest of the sequence around them."""
    number = one.told + 1
    prefix = f"{one.path}.{number}" if one.path else str(number)
    labels = [text_of(start + 1, end - 1).strip() for start, end in block.outlines]
    labels += [""] * (len(block.paths) - len(labels))
    names = [f"{prefix}.{i}" for i in range(1, len(block.paths) + 1)]
    yield {
        "kind": "fork",
        "path": one.path,
        "position": int(laid.position[block.region_start]),
        "paths": [
            {"path": name, "label": label} for name, label in zip(names, labels, strict=False)
        ],
    }
    for name, path in zip(names, block.paths, strict=True):
        yield _Sequence(name, path.start, path.end, path.blocks)
        if path.close is not None or block.joined:
            yield {"kind": "close", "path": name, "position": _after(laid, path.start, path.end)}
    if block.joined:
        position = _after(laid, block.region_start, block.region_end)
        yield {"kind": "join", "path": one.path, "position": position}
    yield _Sequence(one.path, block.region_end, one.end, one.blocks, number)


def _after(laid: Layout, start: int, end: int) -> int:
    """The position after the longest chain through tokens ``[start, end)``."""
    return int(laid.position[start:end].max()) + 1


def _figures(measures: Parallelism) -> dict[str, float]:
    return {
        "multiverse_parallelism": round(measures.degree, 4),
        "multiverse_net_parallelism": round(measures.net, 4),
        "multiverse_critical_path_tokens": measures.critical_path_tokens,
        "multiverse_forks": measures.blocks,
        "multiverse_paths": measures.paths,
        "multiverse_depth": measures.depth,
    }


__all__ = ["Event", "TextOf", "events_of"]
