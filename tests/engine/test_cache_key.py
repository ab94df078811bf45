"""Keys agree on a prefix exactly where tokens and layout do."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.dialect import Tag
from sglang_multiverse.engine.cache_key import MARK_BITS, TOKEN_BITS, cache_key
from sglang_multiverse.layout import layout_of, segments
from sglang_multiverse.structure import Limits, Trace, parse

from ..core.generate import DIALECT, Made, made_texts
from ..core.oracle import addresses_of, visible

LIMITS = st.builds(
    Limits, max_branches=st.sampled_from([None, 0, 2, 3]), max_depth=st.sampled_from([None, 0, 1])
)


def key_of(tokens: array[int], trace: Trace) -> array[int]:
    return cache_key(tokens, segments(trace))


def agree(one: array[int], other: array[int]) -> int:
    """Length of the common prefix."""
    n = min(len(one), len(other))
    return next((i for i in range(n) if one[i] != other[i]), n)


@given(made=made_texts(), first=LIMITS, second=LIMITS, cut=st.integers(0, 200))
def test_one_text_under_two_rules(made: Made, first: Limits, second: Limits, cut: int) -> None:
    """They share what both rules lay out alike, and nothing behind it."""
    tokens = array("q", made.tokens())[: cut + 1]
    one, other = (parse(tokens, DIALECT, limits=limits) for limits in (first, second))
    shared = agree(key_of(tokens, one), key_of(tokens, other))
    seen, there = (visible(addresses_of(trace)) for trace in (one, other))
    at, where = (layout_of(trace).position for trace in (one, other))
    alike = [
        bool(np.array_equal(seen[t, : t + 1], there[t, : t + 1]) and at[t] == where[t])
        for t in range(len(tokens))
    ]
    assert shared == (alike.index(False) if False in alike else len(tokens))


@given(made=made_texts(), cut=st.integers(0, 400))
def test_the_key_of_a_prefix_is_the_prefix_of_the_key(made: Made, cut: int) -> None:
    tokens = array("q", made.tokens())
    key = key_of(tokens, parse(tokens, DIALECT))
    start = tokens[:cut]
    assert key_of(start, parse(start, DIALECT)) == key[:cut]
    # A text that goes on is looked up by the segments of all of it.
    assert cache_key(start, segments(parse(tokens, DIALECT))) == key[:cut]


@given(made=made_texts())
def test_tokens_can_be_read_back_and_a_causal_text_is_its_own_key(made: Made) -> None:
    tokens = array("q", made.tokens())
    trace = parse(tokens, DIALECT)
    key = key_of(tokens, trace)
    assert [one & ((1 << TOKEN_BITS) - 1) for one in key] == list(tokens)
    assert all(0 <= one < 1 << (TOKEN_BITS + MARK_BITS) for one in key)
    if all(len(block.paths) < 2 for block, _ in trace.walk()):
        assert key == tokens


def test_a_request_that_quotes_tags_never_meets_structured_keys() -> None:
    outline = [DIALECT[Tag.OUTLINE], 50, DIALECT[Tag.END_OUTLINE]]
    goal = [DIALECT[Tag.PARALLEL], DIALECT[Tag.GOAL], *outline, *outline, DIALECT[Tag.END_GOAL]]
    paths = [token for _ in range(2) for token in (DIALECT[Tag.PATH], 51, DIALECT[Tag.END_PATH])]
    end = [DIALECT[Tag.CONCLUSION], 52, DIALECT[Tag.END_CONCLUSION], DIALECT[Tag.END_PARALLEL]]
    tokens = array("q", [50, *goal, *paths, *end, 53])
    structured = key_of(tokens, parse(tokens, DIALECT))
    words = key_of(tokens, Trace(length=len(tokens), blocks=[]))
    assert words == tokens
    assert agree(structured, words) == 1 + len(goal) + 3  # through the first path
    assert not set(structured[agree(structured, words) :]) & set(tokens)
