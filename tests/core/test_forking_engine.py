"""What an engine with forked page tables reads and where it puts it is what the layout says."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.layout import layout_of, segments
from sglang_multiverse.structure import UNLIMITED, Limits, parse

from . import oracle
from .generate import DIALECT, Made, made_texts
from .simulator import Machine, improvise, replay

seeds = st.integers(0, 2**32 - 1)


def check(machine: Machine, limits: Limits = UNLIMITED) -> None:
    tokens, reads, positions = machine.result()
    trace = parse(tokens, DIALECT, limits=limits)
    laid = layout_of(trace)
    mask = oracle.from_order(laid.order)
    assert [set(np.flatnonzero(row)) for row in mask] == reads
    assert laid.position.tolist() == positions
    for segment in segments(trace):
        prefix = {k for start, end in segment.prefix for k in range(start, end)}
        assert prefix == reads[segment.start] - {segment.start}


@settings(max_examples=150, deadline=None)
@given(made_texts(), seeds)
def test_a_replayed_text_is_read_as_it_is_laid_out(made: Made, seed: int) -> None:
    machine = replay(made, DIALECT, Random(seed))
    assert machine.result()[0] == made.tokens()
    check(machine)


@settings(max_examples=300, deadline=None)
@given(
    seeds,
    st.integers(1, 120),
    st.sampled_from([None, 2, 3]),
    st.sampled_from([None, 0, 1, 2]),
)
def test_whatever_a_model_writes_engine_and_layout_agree(
    seed: int, tokens: int, branches: int | None, depth: int | None
) -> None:
    limits = Limits(max_branches=branches, max_depth=depth)
    check(improvise(DIALECT, Random(seed), tokens, limits), limits)
