"""Layout: tree of blocks → two integers per token, from which mask, KV rows and RoPE follow.

``visible(q, k) ⇔ k ≤ q and order[k] ≤ order[q]`` is the whole attention mask at any nesting depth;
``position[t]`` is the length of the longest chain of tokens before ``t``, each visible to the
next. A trace is a series-parallel order; such orders have dimension two, and reversing sibling
paths gives the second linear order, which is ``order``.

With ``share_every=k`` the paths of a block see one another's tokens after every k of their own.
That is a series of chunks, each series-parallel, so it is series-parallel again; but its first
linear order is no longer the text's, and stands in ``rank``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from .dialect import Dialect
from .structure import UNLIMITED, Limits, Tokens, Trace, parse

#: The rule these arrays follow; recorded in trained configs and checked when serving.
LAYOUT_VERSION = 1

IntArray = npt.NDArray[np.int64]

#: ``[start, end)`` ranges of token indices, ascending and apart.
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """Two integers per token, three where paths share.

    ``visible(q, k) ⇔ rank[k] ≤ rank[q] and order[k] ≤ order[q]``.

    Attributes:
        position: RoPE position ids, shape ``(n,)``.
        order: ``rank`` with sibling paths reversed, a permutation of ``0..n-1``.
        rank: a permutation of ``0..n-1`` in which every token comes after those it sees; None for
            text order, ``rank[t] = t``.
    """

    position: IntArray
    order: IntArray
    rank: IntArray | None = None

    def __len__(self) -> int:
        return len(self.position)

    @property
    def ranks(self) -> IntArray:
        """``rank``, written out where it is text order."""
        return np.arange(len(self), dtype=np.int64) if self.rank is None else self.rank

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
        if self.rank is not None:
            hidden[1:] |= self.rank[:-1] > self.rank[1:]
        return hidden


@dataclass(frozen=True)
class Segment:
    """A maximal run of tokens ``[start, end)`` whose visible prefix is one fixed set.

    ``prefix`` lists the other visible token ranges in text order: all before ``start``, unless
    paths share, when some may lie behind ``end``. ``position`` is that of the first token, and
    positions run on by one inside the segment.
    """

    start: int
    end: int
    position: int
    prefix: Ranges

    @property
    def prefix_len(self) -> int:
        return sum(end - start for start, end in self.prefix)


def layout(
    tokens: Tokens,
    dialect: Dialect,
    *,
    limits: Limits = UNLIMITED,
    share_every: int | None = None,
) -> Layout:
    """Position and order of every token of one text, shape ``(n,)``. Never raises on content.

    Args:
        limits: the bounds of the engine that made the text, where it had any.
        share_every: tokens a path writes before it sees what its siblings have written, see
            :func:`chunks`. None: paths see nothing of one another.
    """
    return layout_of(parse(tokens, dialect, limits=limits), share_every=share_every)


def layout_of(trace: Trace, *, share_every: int | None = None) -> Layout:
    """:func:`layout` of a parsed text. O(tokens + paths), with ``share_every`` a sort more."""
    laid = _unshared(trace)
    if share_every is None:
        return laid
    chunk = chunks(trace, laid.position, share_every)
    if not chunk.any():  # no path is long enough to share
        return laid
    # Chunks follow one another in both orders, and each is as it would be without sharing.
    return Layout(
        position=laid.position,
        order=_ranks(np.lexsort((laid.order, chunk))),
        rank=_ranks(np.argsort(chunk, kind="stable")),
    )


def _unshared(trace: Trace) -> Layout:
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


def chunks(trace: Trace, position: IntArray, share_every: int) -> IntArray:
    """The chunk of every token under ``share_every``, shape ``(n,)``.

    A token sees every token of an earlier chunk, and of its own chunk what it sees without sharing.
    Chunks are cut in the region of every outermost block, ``share_every`` positions each from its
    first ``<Path>`` on; what stands between regions goes on with the last chunk.

    Raises:
        ValueError: ``share_every`` is no number of tokens.
    """
    check_share_every(share_every)
    chunk = np.zeros(trace.length, dtype=np.int64)
    last = 0
    ends = [block.region_start for block in trace.blocks[1:]] + [trace.length]
    for block, rest in zip(trace.blocks, ends, strict=False):
        start, end = block.region_start, block.region_end
        chunk[start:end] = last + (position[start:end] - position[start]) // share_every
        last = int(chunk[start:end].max())
        chunk[end:rest] = last
    return chunk


def check_share_every(share_every: int | None) -> None:
    """Raise ``ValueError`` unless ``share_every`` is None or a positive integer."""
    if share_every is None:
        return
    if type(share_every) is not int or share_every < 1:
        raise ValueError(
            f"share_every={share_every!r} is no number of tokens: give an integer from 1 on, or "
            "None for paths that see nothing of one another"
        )


def _ranks(permutation: npt.NDArray[np.intp]) -> IntArray:
    """The place of each index in ``permutation``."""
    ranks = np.empty(len(permutation), dtype=np.int64)
    ranks[permutation] = np.arange(len(permutation))
    return ranks


def segments(trace: Trace, *, share_every: int | None = None) -> list[Segment]:
    """The runs of ``trace`` with one visible prefix each, tiling ``[0, length)`` in text order.

    A path that begins a region goes on with the run before it; every later path, and the text
    after a region of several paths, begins a run. With ``share_every`` so does every chunk that
    sees more of the siblings than the one before it; sorted by the ``rank`` of their first tokens
    (text order without), runs have their prefixes in runs before them.
    """
    prefixes: dict[int, Ranges] = {0: ()}
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
    position = _unshared(trace).position
    runs = [
        Segment(start, end, int(position[start]), prefixes[start])
        for start, end in zip(starts, [*starts[1:], trace.length], strict=False)
    ]
    return runs if share_every is None else _cut(runs, chunks(trace, position, share_every))


def _cut(runs: list[Segment], chunk: IntArray) -> list[Segment]:
    """``runs`` cut wherever a chunk begins that sees more than the one before it."""
    changes = np.flatnonzero(np.diff(chunk)) + 1
    pieces: list[tuple[Segment, int, int]] = []
    for run in runs:
        first, last = np.searchsorted(changes, (run.start + 1, run.end))
        edges = [run.start, *changes[first:last].tolist(), run.end]
        pieces += [(run, start, end) for start, end in pairwise(edges)]
    members: list[list[tuple[int, int]]] = [[] for _ in range(int(chunk.max(initial=-1)) + 1)]
    for _, start, end in pieces:
        members[chunk[start]].append((start, end))
    earlier: list[Ranges] = [()]  # the tokens of all chunks before each
    for ranges in members:
        earlier.append(_union(earlier[-1], ranges))
    cut: list[Segment] = []
    for run, start, end in pieces:
        prefix = _union(run.prefix, ((run.start, start),), earlier[chunk[start]])
        if cut and prefix == _union(cut[-1].prefix, ((cut[-1].start, start),)):
            cut[-1] = replace(cut[-1], end=end)
        else:
            cut.append(Segment(start, end, run.position + start - run.start, prefix))
    return cut


def _union(*ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The tokens in any of ``ranges``."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(chain(*ranges)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def positions(runs: Sequence[Segment], start: int, end: int) -> IntArray:
    """Positions of the tokens ``[start, end)`` of the text that ``runs`` tile, shape
    ``(end - start,)``."""
    where = np.arange(start, end, dtype=np.int64)
    for run in runs[bisect_right(runs, start, key=lambda run: run.start) - 1 :]:
        if run.start >= end:
            break
        first, last = max(run.start, start), min(run.end, end)
        where[first - start : last - start] += run.position - run.start
    return where


def extend_ranges(prefix: Ranges, start: int, end: int) -> Ranges:
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
    sharing = any(one.rank is not None for one in layouts)
    orders, ranks, at = [], [], 0
    for one in layouts:
        orders.append(one.order + (total - at - len(one)))
        if sharing:
            ranks.append(one.ranks + at)
        at += len(one)
    empty = np.zeros(0, dtype=np.int64)
    return Layout(
        position=np.concatenate([empty, *(one.position for one in layouts)]),
        order=np.concatenate([empty, *orders]),
        rank=np.concatenate(ranks) if sharing else None,
    )


def plain(length: int) -> Layout:
    """The layout of text without blocks: causal, positions ``0..length-1``."""
    index = np.arange(length, dtype=np.int64)
    return Layout(position=index, order=index.copy())


__all__ = [
    "LAYOUT_VERSION",
    "Layout",
    "Segment",
    "check_share_every",
    "chunks",
    "extend_ranges",
    "layout",
    "layout_of",
    "pack",
    "plain",
    "positions",
    "segments",
]
