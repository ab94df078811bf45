"""Two levels of a decode batch against one softmax over each row's whole KV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.attention.cascade_plan import (
    ALONE,
    CASCADE_BYTES,
    CascadePlan,
    cascade_pays,
    cascade_plan,
    tokens_spared,
)

from .dense import HEADS, attend


@st.composite
def decode_batches(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Groups, shared prefixes and lengths, rows of a group anywhere in the batch."""
    rows: list[tuple[int, int, int]] = []
    for group in draw(st.lists(st.integers(0, 50), unique=True, max_size=4)):
        shared = draw(st.integers(0, 30))
        for own in draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)):
            rows.append((group, shared, shared + own))
    rows += [(ALONE, 0, n) for n in draw(st.lists(st.integers(1, 40), max_size=3))]
    rows = draw(st.permutations(rows))
    return [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]


def weights(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One query over some keys: what it finds, and the log of the sum of its weights."""
    share = q.shape[0] // k.shape[1]
    score = torch.einsum("hd,nhd->hn", q, k.repeat_interleave(share, 1)) * q.shape[1] ** -0.5
    found = torch.einsum("hn,nhd->hd", score.softmax(-1), v.repeat_interleave(share, 1))
    return found, score.logsumexp(-1)


def two_levels(
    plan: CascadePlan,
    tables: list[torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
) -> torch.Tensor:
    """The plan to the letter, merged by log-sum-exp."""
    out = torch.full_like(q, torch.nan)
    group_of = np.repeat(np.arange(len(plan.prefix_row)), np.diff(plan.group_indptr))
    for at, row in enumerate(plan.order):
        start, length = plan.own_start[at], plan.own_len[at]
        slots = tables[row][start : start + length]
        found, log = weights(q[row], k[slots], v[slots])
        if at < plan.grouped:
            group = group_of[at]
            slots = tables[plan.prefix_row[group]][: plan.prefix_len[group]]
            above, log_above = weights(q[row], k[slots], v[slots])
            both = torch.logaddexp(log, log_above)
            found = found * (log - both).exp()[:, None] + above * (log_above - both).exp()[:, None]
        out[row] = found
    return out


@settings(max_examples=150, deadline=None)
@given(decode_batches(), st.sampled_from(HEADS), st.integers(0, 2**31 - 1))
def test_two_levels_give_what_one_gives(
    rows: tuple[list[int], list[int], list[int]], heads: tuple[int, int], seed: int
) -> None:
    groups, shared, lengths = rows
    made = torch.Generator().manual_seed(seed)
    pool = 2 * sum(lengths) + 8
    free = iter(torch.randperm(pool, generator=made).tolist())
    heads_of: dict[int, list[int]] = {}
    tables = []
    for group, head, length in zip(groups, shared, lengths, strict=True):
        if group != ALONE:
            heads_of.setdefault(group, [next(free) for _ in range(head)])
        common = heads_of[group] if group != ALONE else []
        tables.append(torch.tensor([*common, *(next(free) for _ in range(length - len(common)))]))
    k, v = (torch.full((pool, heads[1], 8), torch.nan, dtype=torch.float64) for _ in range(2))
    used = torch.cat([torch.zeros(0, dtype=torch.long), *tables]).unique()
    for cache in (k, v):
        cache[used] = torch.randn(len(used), heads[1], 8, generator=made, dtype=torch.float64)
    q = torch.randn(len(lengths), heads[0], 8, generator=made, dtype=torch.float64)
    plan = cascade_plan(groups, shared, lengths)
    got = two_levels(plan, tables, q, k, v)
    for row, table in enumerate(tables):
        seen = np.ones((1, len(table)), dtype=bool)
        expected = attend(q[row : row + 1], k[table], v[table], seen, 8**-0.5)
        assert (got[row] - expected[0]).abs().max() <= 1e-12


@settings(max_examples=150, deadline=None)
@given(decode_batches())
def test_no_kernel_sees_an_empty_row(rows: tuple[list[int], list[int], list[int]]) -> None:
    groups, shared, lengths = rows
    plan = cascade_plan(groups, shared, lengths)
    assert sorted(plan.order) == list(range(len(groups)))
    assert (plan.own_len > 0).all()
    assert (plan.prefix_len > 0).all()
    assert (np.diff(plan.group_indptr) > 1).all()  # siblings, not rows alone
    assert plan.group_indptr[-1] == plan.grouped
    read = int(plan.own_len.sum() + plan.prefix_len.sum())
    assert read == sum(lengths) - tokens_spared(groups, shared)


def test_siblings_apart_in_the_batch_are_brought_together() -> None:
    plan = cascade_plan([7, ALONE, 3, 7, 5, 3], [10, 0, 4, 10, 6, 4], [12, 9, 5, 11, 8, 7])
    assert plan.order.tolist() == [2, 5, 0, 3, 1, 4]
    assert plan.grouped == 4
    assert plan.group_indptr.tolist() == [0, 2, 4]
    assert plan.prefix_row.tolist() == [2, 0]
    assert plan.prefix_len.tolist() == [4, 10]
    assert plan.own_start.tolist() == [4, 4, 10, 10, 0, 0]
    assert plan.own_len.tolist() == [1, 3, 2, 1, 9, 8]


def test_a_step_pays_by_the_bytes_it_does_not_read_again() -> None:
    """(N - 1) P by group: four siblings over 3k tokens, and two over as many."""
    groups, shared = [0] * 4 + [1] * 2 + [ALONE], [3000] * 6 + [0]
    assert tokens_spared(groups, shared) == 3 * 3000 + 3000
    assert cascade_pays(groups, shared, 4, spared=47_999)
    assert not cascade_pays(groups, shared, 4, spared=48_000)
    assert not cascade_pays([0, 0], [CASCADE_BYTES // 4096] * 2, 4096)
    assert cascade_pays([0, 0], [CASCADE_BYTES // 4096 + 1] * 2, 4096)
    assert not cascade_pays([ALONE] * 8, [0] * 8, 4096, spared=0)


@pytest.mark.parametrize(
    ("groups", "shared", "lengths", "words"),
    [
        ([0, 0], [5, 5], [6, 5], "row 1: 5 tokens of its 5 are shared"),
        ([0, 0], [5, 4], [6, 6], "differ in the length of their shared prefix"),
        ([0, 0], [5], [6, 6], "one of each per row"),
    ],
)
def test_rows_that_are_no_siblings_are_refused(
    groups: list[int], shared: list[int], lengths: list[int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        cascade_plan(groups, shared, lengths)
