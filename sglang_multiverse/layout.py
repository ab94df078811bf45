"""Layout: tree of blocks → two integers per token, from which mask, KV rows and RoPE follow.

``visible(q, k) ⇔ k ≤ q and order[k] ≤ order[q]`` is the whole attention mask at any nesting depth;
``position[t]`` is the length of the longest chain of tokens before ``t``, each visible to the
next. A trace is a series-parallel order; such orders have dimension two, and reversing sibling
paths gives the second linear order, which is ``order``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .dialect import Dialect
from .structure import UNLIMITED, Limits, Tokens, Trace, parse

#: The rule these arrays follow; recorded in trained configs and checked when serving.
LAYOUT_VERSION = 1

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Two integers per token.

    Attributes:
        position: RoPE position ids, shape ``(n,)``.
        order: text order with sibling paths reversed, a permutation of ``0..n-1``.
    """

    position: IntArray
    order: IntArray

    def __len__(self) -> int:
        return len(self.position)

    @property
    def critical_path(self) -> int:
        """Highest position + 1, in tokens: the decode steps of an engine with unbounded width."""
        return int(self.position.max()) + 1 if len(self.position) else 0

    @property
    def left_hidden(self) -> npt.NDArray[np.bool_]:
        """Where a token cannot see its left neighbour (second and later paths, packed documents);
        as labels these must not be trained on. Shape ``(n,)``."""
        hidden = np.zeros(len(self.order), dtype=bool)
        hidden[1:] = self.order[:-1] > self.order[1:]
        return hidden


@dataclass(frozen=True)
class Segment:
    """A maximal run of tokens ``[start, end)`` whose visible prefix is one fixed set.

    ``prefix`` lists the visible token ranges before ``start`` in text order; ``position`` is that
    of the first token, and positions run on by one inside the segment.
    """

    start: int
    end: int
    position: int
    prefix: tuple[tuple[int, int], ...]

    @property
    def prefix_len(self) -> int:
        return sum(end - start for start, end in self.prefix)


def layout(tokens: Tokens, dialect: Dialect, *, limits: Limits = UNLIMITED) -> Layout:
    """Position and order of every token of one text, shape ``(n,)``. Never raises on content.

    Args:
        limits: the bounds of the engine that made the text, where it had any.
    """
    return layout_of(parse(tokens, dialect, limits=limits))


def layout_of(trace: Trace) -> Layout:
    """:func:`layout` of a parsed text. O(tokens + paths)."""
    n = trace.length
    order_steps = np.zeros(n + 1, dtype=np.int64)
    shift_steps = np.zeros(n + 1, dtype=np.int64)  # position = index - shift
    for block, _ in trace.walk():
        for path in block.paths:
            shift = block.region_start + block.region_end - path.start - path.end
            order_steps[path.start] += shift
            order_steps[path.end] -= shift
    starts = np.zeros(n, dtype=np.int64)
    for start, shift in _shifts(trace).items():
        if start < n:
            shift_steps[start] = shift
            starts[start] = start
    index = np.arange(n, dtype=np.int64)
    last = np.maximum.accumulate(starts)
    return Layout(position=index - shift_steps[last], order=index + np.cumsum(order_steps[:n]))


def _shifts(trace: Trace) -> dict[int, int]:
    """``{start: shift}``: from ``start`` up to the next one, position = index - shift."""
    saved: dict[int, int] = {}  # by which a block shortens the critical path
    for block, _ in reversed(list(trace.walk())):
        longest = max(
            path.end - path.start - sum(saved[id(inner)] for inner in path.blocks)
            for path in block.paths
        )
        saved[id(block)] = block.region_end - block.region_start - longest
    shifts: dict[int, int] = {}
    pending = [(trace.blocks, 0)]
    while pending:
        blocks, shift = pending.pop()
        for block in blocks:
            for path in block.paths:
                inside = shift + path.start - block.region_start
                shifts[path.start] = inside
                pending.append((path.blocks, inside))
            shift += saved[id(block)]
            # Regions that </Think> ends together: the outermost, which comes first, decides.
            shifts.setdefault(block.region_end, shift)
    return shifts


def segments(trace: Trace) -> list[Segment]:
    """The runs of ``trace`` with one visible prefix each, tiling ``[0, length)`` in text order.

    A path that begins a region goes on with the run before it; every later path, and the text
    after a region of several paths, begins a run.
    """
    prefixes: dict[int, tuple[tuple[int, int], ...]] = {0: ()}
    pending = [(trace.blocks, 0, prefixes[0])]
    while pending:
        # Tokens of this sequence see `prefix` and, from `at` on, one another.
        blocks, at, prefix = pending.pop()
        for block in blocks:
            before = extend_ranges(prefix, at, block.region_start)
            first, *later = block.paths
            pending.append((first.blocks, at, prefix))
            for path in later:
                prefixes[path.start] = before
                pending.append((path.blocks, path.start, before))
            if later:
                at = block.region_end
                prefix = extend_ranges(before, block.region_start, at)
                prefixes.setdefault(at, prefix)  # as in _shifts, the outermost decides
    starts = sorted(start for start in prefixes if start < trace.length)
    position = layout_of(trace).position
    return [
        Segment(start, end, int(position[start]), prefixes[start])
        for start, end in zip(starts, [*starts[1:], trace.length], strict=False)
    ]


def extend_ranges(
    prefix: tuple[tuple[int, int], ...], start: int, end: int
) -> tuple[tuple[int, int], ...]:
    """Append the range ``[start, end)``, merged with the last one where they touch."""
    if start >= end:
        return prefix
    if prefix and prefix[-1][1] == start:
        return (*prefix[:-1], (prefix[-1][0], end))
    return (*prefix, (start, end))


def pack(layouts: Sequence[Layout]) -> Layout:
    """Lay texts end to end so that none sees another. Padding is one more text.

    Positions restart; orders of earlier texts are lifted over those of later ones, as siblings.
    """
    total = sum(len(one) for one in layouts)
    orders, at = [], 0
    for one in layouts:
        orders.append(one.order + (total - at - len(one)))
        at += len(one)
    empty = np.zeros(0, dtype=np.int64)
    return Layout(
        position=np.concatenate([empty, *(one.position for one in layouts)]),
        order=np.concatenate([empty, *orders]),
    )


def plain(length: int) -> Layout:
    """The layout of text without blocks: causal, positions ``0..length-1``."""
    index = np.arange(length, dtype=np.int64)
    return Layout(position=index, order=index.copy())


__all__ = [
    "LAYOUT_VERSION",
    "Layout",
    "Segment",
    "extend_ranges",
    "layout",
    "layout_of",
    "pack",
    "plain",
    "segments",
]
