"""Layout: tree of blocks → two integers per token, from which mask, KV rows and RoPE follow.

``visible(q, k) ⇔ k ≤ q and order[k] ≤ order[q]`` is the whole attention mask at any nesting depth;
``position[t]`` is the length of the longest chain of tokens before ``t``, each visible to the
next. A trace is a series-parallel order; such orders have dimension two, and reversing sibling
paths gives the second linear order, which is ``order``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .dialect import Dialect
from .structure import UNLIMITED, Block, Limits, Path, Tokens, Trace, parse

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
    for start, shift in _shifts(trace.blocks, 0):
        if start < n:
            shift_steps[start] = shift
            starts[start] = start
    index = np.arange(n, dtype=np.int64)
    last = np.maximum.accumulate(starts)
    return Layout(position=index - shift_steps[last], order=index + np.cumsum(order_steps[:n]))


def _shifts(blocks: Sequence[Block], shift: int) -> Iterator[tuple[int, int]]:
    """``(start, shift)`` in text order: from ``start`` on, position = index - shift."""
    for block in blocks:
        fork = block.region_start - shift
        height = fork
        for path in block.paths:
            inner = path.start - fork
            yield path.start, inner
            last = inner
            for last_start, last_shift in _shifts(path.blocks, inner):
                yield last_start, last_shift
                last = last_shift
            height = max(height, path.end - last)
        shift = block.region_end - height
        yield block.region_end, shift


def segments(trace: Trace) -> list[Segment]:
    """The runs of ``trace`` with one visible prefix each, tiling ``[0, length)`` in text order.

    A path that begins a region goes on with the run before it; every later path, and the text
    after a region, begins a run.
    """
    made: list[Segment] = []
    position = layout_of(trace).position

    def emit(start: int, end: int, prefix: tuple[tuple[int, int], ...]) -> None:
        if start < end:
            made.append(Segment(start, end, int(position[start]), prefix))

    def sequence(
        start: int, end: int, blocks: Sequence[Block], prefix: tuple[tuple[int, int], ...]
    ) -> None:
        """Emit ``[start, end)``, before which ``prefix`` is visible."""
        at = start
        for block in blocks:
            before = _extend(prefix, at, block.region_start)
            for i, path in enumerate(block.paths):
                if i == 0:  # the run before the region goes on into the first path
                    sequence(at, path.end, path.blocks, prefix)
                else:
                    sequence(path.start, path.end, path.blocks, before)
            prefix = _extend(before, block.region_start, block.region_end)
            at = block.region_end
        emit(at, end, prefix)

    sequence(0, trace.length, trace.blocks, ())
    return made


def _extend(
    prefix: tuple[tuple[int, int], ...], start: int, end: int
) -> tuple[tuple[int, int], ...]:
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
    "Path",
    "Segment",
    "layout",
    "layout_of",
    "pack",
    "plain",
    "segments",
]
