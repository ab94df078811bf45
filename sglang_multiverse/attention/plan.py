"""The segmented plan: an extend over structured text as rows of an ordinary causal attention plan.

Tokens of one :class:`~sglang_multiverse.layout.Segment` see one fixed prefix and, causally, one
another. So each stretch of an extend that lies in one segment is a row of its own whose KV list is
the slots of that prefix followed by the slots of the segment. Where the stretch stands at the end
of the list, causal masking aligned to the bottom right is the whole mask; the order of what comes
before it does not matter, for K carries its rotary position. Pure numpy: backends turn the ranges
into slots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from ..layout import Segment

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Extend:
    """One row of an extend batch.

    Its row of the page table holds the text in canonical order; ``[0, prefix_len)`` is cached and
    ``[prefix_len, end)`` is computed now.

    Attributes:
        segments: ``layout.segments`` of the text from token 0; may run past ``end``, for a chunk of
            a longer text. None for plain causal text.

    Raises:
        ValueError: where the bounds are no extend, or the segments do not reach ``end``.
    """

    prefix_len: int
    end: int
    segments: Sequence[Segment] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.prefix_len <= self.end:
            raise ValueError(
                f"an extend of tokens [{self.prefix_len}, {self.end}): the cached prefix must not "
                "be negative or longer than the text"
            )
        if self.segments is None or self.prefix_len == self.end:
            return
        if not self.segments or self.segments[-1].end < self.end:
            reached = self.segments[-1].end if self.segments else 0
            raise ValueError(
                f"segments describe {reached} tokens of a text extended to {self.end}: "
                "take them from the layout of the whole text"
            )


@dataclass(frozen=True)
class ExtendPlan:
    """Runs of a batch, in the order of its query tokens, and the KV ranges each of them sees.

    Attributes:
        qo_indptr: query tokens of run ``r`` are ``qo_indptr[r]:qo_indptr[r + 1]``,
            shape ``(runs + 1,)``.
        kv_indptr: KV tokens of run ``r`` likewise, in the list that the ranges spell out,
            shape ``(runs + 1,)``.
        range_indptr: ranges of run ``r`` likewise, shape ``(runs + 1,)``.
        ranges: ``(row, start, end)``: tokens ``[start, end)`` of that row of the batch, shape
            ``(ranges, 3)``. The last range of a run ends with its query tokens.
    """

    qo_indptr: IntArray
    kv_indptr: IntArray
    range_indptr: IntArray
    ranges: IntArray

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.qo_indptr) - 1

    @property
    def range_kv_indptr(self) -> IntArray:
        """Where each range begins in the list of KV tokens, shape ``(ranges + 1,)``."""
        return indptr_of(self.ranges[:, 2] - self.ranges[:, 1])


def plan(extends: Sequence[Extend]) -> ExtendPlan:
    """Runs of a batch of extends. O(rows + segments touched and their ranges).

    Raises:
        ValueError: where a run sees tokens that this extend does not reach, so that their K and V
            are not yet written.
    """
    queries: list[int] = []
    counts: list[int] = []
    ranges: list[tuple[int, int, int]] = []
    for row, extend in enumerate(extends):
        if extend.prefix_len == extend.end:
            continue
        if extend.segments is None:
            queries.append(extend.end - extend.prefix_len)
            counts.append(1)
            ranges.append((row, 0, extend.end))
            continue
        for segment in _touched(extend.segments, extend.prefix_len, extend.end):
            end = min(segment.end, extend.end)
            queries.append(end - max(segment.start, extend.prefix_len))
            before = len(ranges)
            ranges += _ranges(segment, end, row, extend.end)
            counts.append(len(ranges) - before)
    table = np.array(ranges, dtype=np.int32).reshape(-1, 3)
    range_indptr = indptr_of(counts)
    kv_starts = indptr_of(table[:, 2] - table[:, 1])
    return ExtendPlan(
        qo_indptr=indptr_of(queries),
        kv_indptr=kv_starts[range_indptr],
        range_indptr=range_indptr,
        ranges=table,
    )


def _touched(segments: Sequence[Segment], start: int, end: int) -> Sequence[Segment]:
    """The segments that hold a token of ``[start, end)``."""
    first = bisect_right(segments, start, key=attrgetter("start")) - 1
    last = bisect_right(segments, end - 1, lo=first, key=attrgetter("start"))
    return segments[first:last]


def _ranges(segment: Segment, end: int, row: int, reach: int) -> list[tuple[int, int, int]]:
    """What tokens of ``segment`` up to ``end`` see, its own tokens last."""
    start = segment.start
    *others, last = segment.prefix or ((start, start),)
    if last[1] == start:  # touches the segment: one range
        start = last[0]
    else:
        others.append(last)
    for a, b in others:
        if b > reach:
            raise ValueError(
                f"row {row}: tokens [{segment.start}, {segment.end}) see tokens [{a}, {b}), and "
                f"the extend ends at {reach}. Paths that share their tokens cannot be cut between "
                "writer and reader: extend to the end of the block"
            )
    return [*((row, a, b) for a, b in others), (row, start, end)]


def indptr_of(lengths: npt.ArrayLike) -> IntArray:
    """Running sums from 0, shape ``(n + 1,)``."""
    values = np.asarray(lengths, dtype=np.int64)
    indptr = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum(values, out=indptr[1:])
    return indptr


__all__ = ["Extend", "ExtendPlan", "indptr_of", "plan"]
