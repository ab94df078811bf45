"""When paths that share may write, and what each of their tokens sees.

With ``share_every=k`` the own tokens of a path are cut into chunks of k. A token of chunk c sees
its siblings' tokens before ``c * k``, so it can be computed once each of them has ended or has the
first token of its own chunk c: then all before that is computed, or can be. Paths of a tree that
shares hold no blocks, so nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .node import Node, State

_ENDED = (State.CLOSED, State.STOPPED, State.OVER)


@dataclass(frozen=True, eq=False)
class Run:
    """Own tokens ``[start, end)`` of a path, one causal row: after everything above the path, the
    tokens of siblings that it sees and its own before ``start``.

    Attributes:
        chunk: of its first token; runs rest on runs of earlier chunks alone.
        seen: siblings with the number of tokens seen of each, in canonical order.
        base: row index of the path's first token.
        delta: row index minus position.
    """

    node: Node
    chunk: int
    start: int
    end: int
    seen: tuple[tuple[Node, int], ...]
    base: int
    delta: int


def seen(node: Node, chunk: int, every: int) -> tuple[tuple[Node, int], ...]:
    """The siblings' tokens that ``chunk`` of a path sees, as the siblings stand now."""
    assert node.parent is not None
    counts = (
        (kid, min(chunk * every, len(kid.tokens))) for kid in node.parent.kids if kid is not node
    )
    return tuple((kid, count) for kid, count in counts if count)


def begins_chunk(node: Node, every: int) -> bool:
    """Whether the newest token of a path begins another chunk than its first."""
    at = len(node.tokens) - 1
    return at > 0 and at % every == 0


def pauses(node: Node, every: int) -> bool:
    """Whether the newest token of a path sees more than the one before it."""
    if node.parent is None or not begins_chunk(node, every):
        return False
    before = len(node.tokens) - 1 - every
    return any(
        kid.state not in _ENDED or len(kid.tokens) > before
        for kid in node.parent.kids
        if kid is not node
    )


def reached(parent: Node, every: int) -> int:
    """The last chunk of the open block of ``parent`` that may be computed."""
    going = [len(kid.tokens) for kid in parent.kids if kid.state not in _ENDED]
    # Once all have ended, what is left of their ends may be written.
    last = min(going) if going else max(len(kid.tokens) for kid in parent.kids)
    return (last - 1) // every


def runs(node: Node, start: int, reach: int, every: int) -> Iterator[Run]:
    """The own tokens of a path from ``start`` on, up to the end of chunk ``reach``, in runs."""
    parent = node.parent
    assert parent is not None
    stop = min(len(node.tokens), (reach + 1) * every)
    while start < stop:
        chunk = start // every
        visible = seen(node, chunk, every)
        end = (chunk + 1) * every
        while end < stop and seen(node, end // every, every) == visible:
            end += every  # siblings that ended early
        end = min(end, stop)
        more = sum(count for _, count in visible)
        yield Run(node, chunk, start, end, visible, parent.row_len + more, parent.delta + more)
        start = end


__all__ = ["Run", "begins_chunk", "pauses", "reached", "runs", "seen"]
