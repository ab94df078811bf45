"""Attention by definition, and the batches it is asked about: slow, and plainly right.

Tokens are drawn in random slots of a pool whose other slots hold NaN, so that whatever a plan reads
beyond the visible tokens shows in its answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from sglang_multiverse.attention.plan import Extend, ExtendPlan
from sglang_multiverse.layout import segments
from sglang_multiverse.structure import parse

from ..core import oracle
from ..core.generate import DIALECT, Made, made_texts, make

#: Query heads and KV heads: groups of five as Qwen2.5-32B's, whole and one to a rank of eight;
#: a power of two; no groups.
HEADS = ((5, 1), (40, 8), (8, 2), (4, 4))


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: oracle.Bools, scale: float
) -> torch.Tensor:
    """One query at a time over the keys it sees. ``q`` is ``(m, heads, d)``, ``k`` and ``v`` are
    ``(n, kv_heads, d)``, ``seen`` is ``(m, n)``; computed and returned in float64."""
    share = q.shape[1] // k.shape[1]
    out = torch.empty(*q.shape[:2], v.shape[2], dtype=torch.float64)
    for i, row in enumerate(seen):
        at = torch.from_numpy(np.flatnonzero(row))
        keys = k[at].double().repeat_interleave(share, dim=1)
        values = v[at].double().repeat_interleave(share, dim=1)
        weights = torch.einsum("hd,nhd->hn", q[i].double(), keys).mul(scale).softmax(dim=-1)
        out[i] = torch.einsum("hn,nhd->hd", weights, values)
    return out


def causal_of_run(queries: int, keys: int) -> oracle.Bools:
    """The mask of one row of a causal plan, aligned to the bottom right."""
    offset = keys - queries
    return np.array([[k <= q + offset for k in range(keys)] for q in range(queries)], dtype=bool)


@dataclass
class Row:
    """One row of a batch: what each token sees, and what is extended."""

    seen: oracle.Bools
    extend: Extend

    @property
    def new(self) -> slice:
        return slice(self.extend.prefix_len, self.extend.end)


@dataclass(repr=False)
class Batch:
    """Rows with their page tables over one pool of K and V."""

    rows: list[Row]
    tables: list[torch.Tensor]
    k: torch.Tensor
    v: torch.Tensor
    q: torch.Tensor
    scale: float

    def __repr__(self) -> str:
        """Short, for examples that fail."""
        return f"Batch({[(e.prefix_len, e.end, e.segments) for e in self.extends]})"

    @property
    def extends(self) -> list[Extend]:
        return [row.extend for row in self.rows]

    def expected(self) -> torch.Tensor:
        """What every query token of the batch must get, in float64."""
        parts, at = [], 0
        for row, table in zip(self.rows, self.tables, strict=True):
            seen = row.seen[row.new]
            end = at + len(seen)
            parts.append(attend(self.q[at:end], self.k[table], self.v[table], seen, self.scale))
            at = end
        return torch.cat(parts)

    def by_plan(self, plan: ExtendPlan) -> torch.Tensor:
        """What a backend that follows ``plan`` to the letter gets."""
        out = torch.full((*self.q.shape[:2], self.v.shape[2]), math.nan, dtype=torch.float64)
        for r in range(len(plan)):
            start, end = plan.qo_indptr[r : r + 2]
            ranges = plan.ranges[plan.range_indptr[r] : plan.range_indptr[r + 1]]
            slots = torch.cat([self.tables[row][a:b] for row, a, b in ranges])
            assert len(slots) == plan.kv_indptr[r + 1] - plan.kv_indptr[r]
            seen = causal_of_run(end - start, len(slots))
            out[start:end] = attend(
                self.q[start:end], self.k[slots], self.v[slots], seen, self.scale
            )
        return out


def structured(made: Made, prefix_len: int, end: int) -> Row:
    """A row that extends ``[prefix_len, end)`` of a text whose segments are known to its end."""
    walked = list(made.walk(()))
    runs = segments(parse([token for token, _ in walked], DIALECT))
    seen = oracle.visible([address for _, address in walked[:end]])
    return Row(seen, Extend(prefix_len, end, runs))


def plain_row(prefix_len: int, end: int) -> Row:
    return Row(np.tril(np.ones((end, end), dtype=bool)), Extend(prefix_len, end))


def batch_of(
    rows: Sequence[Row],
    *,
    seed: int,
    heads: tuple[int, int] = (5, 1),
    dim: int = 8,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Random queries, keys and values, in random slots; slots of nobody hold NaN."""
    made = torch.Generator().manual_seed(seed)
    total = sum(row.extend.end for row in rows)
    pool = 2 * total + 8
    taken = torch.randperm(pool, generator=made)[:total]
    k, v = (torch.full((pool, heads[1], dim), math.nan, dtype=dtype) for _ in range(2))
    for cache in (k, v):
        cache[taken] = torch.randn(total, heads[1], dim, generator=made, dtype=torch.float64).to(
            dtype
        )
    new = sum(row.extend.end - row.extend.prefix_len for row in rows)
    q = torch.randn(new, heads[0], dim, generator=made, dtype=torch.float64).to(dtype)
    tables = list(taken.split([row.extend.end for row in rows]))
    return Batch(list(rows), tables, k, v, q, dim**-0.5)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row with or without structure, cut anywhere, part of it cached."""
    if draw(st.integers(0, 3)) == 0:
        end = draw(st.integers(1, 40))
        return plain_row(draw(st.integers(0, end - 1)), end)
    made = draw(made_texts(min_depth=1).filter(lambda made: made.tokens()))
    n = len(made.tokens())
    end = draw(st.one_of(st.just(n), st.integers(1, n)))
    return structured(made, draw(st.one_of(st.just(0), st.integers(0, end - 1))), end)


@st.composite
def batches(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Batch:
    """Batches of up to four rows."""
    return batch_of(
        draw(st.lists(rows(), min_size=1, max_size=4)),
        seed=draw(st.integers(0, 2**31 - 1)),
        heads=draw(st.sampled_from(HEADS)),
        dtype=dtype,
    )


def long_text(seed: int, *, at_least: int = 200) -> Made:
    """A text with nested blocks of at least so many tokens."""
    for attempt in range(seed, seed + 1000):
        made = make(attempt, depth=3, words=12, blocks=8)
        if len(made.tokens()) >= at_least:
            return made
    raise AssertionError(f"no text of {at_least} tokens from seed {seed} on")
