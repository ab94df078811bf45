"""The segmented plan of an extend against a dense mask built from the addresses of tokens."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.attention.plan import Extend, plan
from sglang_multiverse.layout import Segment, segments
from sglang_multiverse.structure import parse

from ..core import oracle
from ..core.generate import DIALECT, Made, made_texts
from .dense import Batch, Row, batch_of, batches, long_text, plain_row, structured

exact = settings(max_examples=60, deadline=None)
few = settings(max_examples=25, deadline=None)  # the oracle is cubic


@exact
@given(batches())
def test_a_plan_of_any_batch_gives_what_the_dense_mask_gives(batch: Batch) -> None:
    error = (batch.by_plan(plan(batch.extends)) - batch.expected()).abs().max()
    assert error <= 1e-12


@pytest.mark.parametrize("heads", [(5, 1), (40, 8)])
def test_chunks_of_a_long_text_give_what_one_extend_gives(heads: tuple[int, int]) -> None:
    made = long_text(5)
    n = len(made.tokens())
    cuts = [0, 1, n // 3, n // 3 + 1, n // 2, n]
    for start, end in [*itertools.pairwise(cuts), (0, n)]:
        batch = batch_of([structured(made, start, end)], seed=n + start, heads=heads)
        error = (batch.by_plan(plan(batch.extends)) - batch.expected()).abs().max()
        assert error <= 1e-12, f"extend [{start}, {end}) of {n}"


@exact
@given(batches())
def test_runs_tile_the_query_tokens_and_end_with_them(batch: Batch) -> None:
    made = plan(batch.extends)
    assert made.qo_indptr[-1] == len(batch.q)
    assert (np.diff(made.qo_indptr) > 0).all()
    assert (np.diff(made.ranges[:, 1:], axis=1) > 0).all()  # no range is empty
    np.testing.assert_array_equal(made.kv_indptr, made.range_kv_indptr[made.range_indptr])
    new = [
        (row, token)
        for row, extend in enumerate(batch.extends)
        for token in range(extend.prefix_len, extend.end)
    ]
    for r in range(len(made)):
        row, _, end = made.ranges[made.range_indptr[r + 1] - 1]
        queries = made.qo_indptr[r + 1] - made.qo_indptr[r]
        own = [(row, token) for token in range(end - queries, end)]
        assert new[made.qo_indptr[r] : made.qo_indptr[r + 1]] == own


@exact
@given(made_texts(min_depth=1))
def test_a_whole_text_has_one_run_per_segment(made: Made) -> None:
    tokens = made.tokens()
    runs = segments(parse(tokens, DIALECT))
    assert len(plan([Extend(0, len(tokens), runs)])) == len(runs)


def test_plain_rows_and_decode_rows_are_one_run_over_one_range() -> None:
    made = plan([Extend(3, 9), Extend(40, 41)])
    assert made.qo_indptr.tolist() == [0, 6, 7]
    assert made.kv_indptr.tolist() == [0, 9, 50]
    assert made.ranges.tolist() == [[0, 0, 9], [1, 0, 41]]


def test_a_row_with_nothing_to_compute_has_no_run() -> None:
    made = plan([Extend(5, 5, ()), Extend(0, 2)])
    assert len(made) == 1
    assert made.ranges.tolist() == [[1, 0, 2]]


@st.composite
def sharing(draw: st.DrawFn) -> tuple[Row, list[Segment]]:
    """A text whose paths see one another's tokens after every few of their own."""
    made = draw(made_texts(min_depth=1).filter(lambda made: made.tokens()))
    every = draw(st.sampled_from([1, 2, 4, 8, 16]))
    walked = list(made.walk(()))
    runs = segments(parse([token for token, _ in walked], DIALECT), share_every=every)
    seen = oracle.shared([address for _, address in walked], every)
    cached = draw(st.integers(0, len(walked) - 1))
    return Row(seen, Extend(cached, len(walked), runs)), runs


@few
@given(sharing(), st.integers(0, 2**31 - 1))
def test_paths_that_share_their_tokens_are_exact_in_one_extend(
    shared: tuple[Row, list[Segment]], seed: int
) -> None:
    batch = batch_of([shared[0], plain_row(2, 7)], seed=seed)
    error = (batch.by_plan(plan(batch.extends)) - batch.expected()).abs().max()
    assert error <= 1e-12


@few
@given(sharing(), st.data())
def test_a_cut_between_writer_and_reader_is_refused_and_no_other(
    shared: tuple[Row, list[Segment]], data: st.DataObject
) -> None:
    row, runs = shared
    end = data.draw(st.integers(1, len(row.seen)))
    start = data.draw(st.integers(0, end - 1))
    extends = [Extend(0, 3), Extend(start, end, runs)]
    missing = row.seen[start:end, end:].any()
    if not missing:
        plan(extends)
        return
    with pytest.raises(ValueError, match=rf"row 1: .* the extend ends at {end}"):
        plan(extends)


@pytest.mark.parametrize(
    ("prefix_len", "end", "runs", "words"),
    [
        (-1, 4, None, "must not be negative"),
        (5, 4, None, "longer than the text"),
        (0, 4, (), "describe 0 tokens"),
        (0, 4, (Segment(0, 3, 0, ()),), "describe 3 tokens of a text extended to 4"),
    ],
)
def test_an_impossible_extend_is_refused(
    prefix_len: int, end: int, runs: tuple[Segment, ...] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Extend(prefix_len, end, runs)


def test_a_decode_row_of_a_long_structured_text_costs_no_walk_over_its_segments() -> None:
    """One token at the end of a text with 20,000 segments takes a bisection."""
    runs = [Segment(i, i + 1, i, ((0, i),) if i else ()) for i in range(20_000)]
    rows = [Extend(19_999, 20_000, runs)] * 100
    start = time.process_time()
    made = plan(rows)
    assert time.process_time() - start < 0.1
    assert len(made) == 100
