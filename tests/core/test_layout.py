"""Position, order, segments and packing against the definitions in ``oracle``."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.dialect import Tag
from sglang_multiverse.layout import Layout, layout, layout_of, pack, plain, segments
from sglang_multiverse.structure import parse

from . import oracle
from .generate import DIALECT, WORD, Made, made_texts, make, tag_soup

texts = settings(max_examples=150, deadline=None)


def truth(made: Made) -> tuple[list[int], oracle.Bools]:
    walked = list(made.walk(()))
    return [token for token, _ in walked], oracle.visible([address for _, address in walked])


@texts
@given(made_texts())
def test_order_is_the_mask(made: Made) -> None:
    tokens, seen = truth(made)
    order = layout(tokens, DIALECT).order
    assert sorted(order) == list(range(len(tokens)))
    np.testing.assert_array_equal(oracle.from_order(order), seen)


@texts
@given(made_texts())
def test_position_is_the_longest_chain_of_visible_tokens(made: Made) -> None:
    tokens, seen = truth(made)
    laid = layout(tokens, DIALECT)
    assert laid.position.tolist() == oracle.heights(seen)
    assert laid.critical_path == max(oracle.heights(seen), default=-1) + 1


@texts
@given(made_texts())
def test_nothing_leaks_through_an_intermediate_token(made: Made) -> None:
    tokens, _ = truth(made)
    seen = oracle.from_order(layout(tokens, DIALECT).order)
    assert oracle.transitive(seen)
    assert seen.diagonal().all()  # no row is empty


@texts
@given(made_texts())
def test_left_hidden_marks_tokens_that_do_not_see_their_left_neighbour(made: Made) -> None:
    tokens, seen = truth(made)
    hidden = [t > 0 and not seen[t, t - 1] for t in range(len(tokens))]
    assert layout(tokens, DIALECT).left_hidden.tolist() == hidden


@settings(max_examples=60, deadline=None)
@given(st.one_of(made_texts().map(Made.tokens), tag_soup()))
def test_layout_of_every_prefix_is_the_prefix_of_the_layout(tokens: list[int]) -> None:
    whole = layout(tokens, DIALECT)
    for n in range(len(tokens)):
        part = layout(tokens[:n], DIALECT)
        np.testing.assert_array_equal(part.position, whole.position[:n])
        # The order of a prefix has smaller numbers; what counts is who comes before whom.
        np.testing.assert_array_equal(np.argsort(part.order), np.argsort(whole.order[:n]))


@settings(max_examples=200, deadline=None)
@given(tag_soup())
def test_tags_in_any_order_have_a_sound_layout(tokens: list[int]) -> None:
    trace = parse(tokens, DIALECT)
    laid = layout_of(trace)
    seen = oracle.visible(oracle.addresses_of(trace))
    assert laid.order.tolist() == oracle.order_by_formula(trace)
    np.testing.assert_array_equal(oracle.from_order(laid.order), seen)
    assert laid.position.tolist() == oracle.heights(seen)
    assert oracle.transitive(seen)


@texts
@given(made_texts(min_depth=1), st.integers(0, 2**16), st.integers(0, 3))
def test_the_end_of_the_thought_ends_every_open_path(made: Made, cut: int, rest: int) -> None:
    """``</Think>`` and what follows see all that was written, from wherever it stands."""
    walked = list(made.walk(()))
    walked = walked[: cut % (len(walked) + 1)]
    tokens = [token for token, _ in walked] + [int(Tag.END_THINK)] + [WORD] * rest
    seen = oracle.visible([address for _, address in walked] + [()] * (rest + 1))
    trace = parse(tokens, DIALECT)
    laid = layout_of(trace)
    np.testing.assert_array_equal(oracle.from_order(laid.order), seen)
    assert laid.position.tolist() == oracle.heights(seen)
    for segment in segments(trace):
        prefix = {k for start, end in segment.prefix for k in range(start, end)}
        assert set(np.flatnonzero(seen[segment.start])) == prefix | {segment.start}


@texts
@given(made_texts())
def test_order_follows_the_formula(made: Made) -> None:
    trace = parse(made.tokens(), DIALECT)
    assert layout_of(trace).order.tolist() == oracle.order_by_formula(trace)


@texts
@given(st.one_of(made_texts().map(Made.tokens), tag_soup()))
def test_segments_tile_the_text_and_name_what_is_visible(tokens: list[int]) -> None:
    trace = parse(tokens, DIALECT)
    seen = oracle.visible(oracle.addresses_of(trace))
    height = oracle.heights(seen)
    at = 0
    for segment in segments(trace):
        assert segment.start == at < segment.end
        at = segment.end
        edges = [edge for span in segment.prefix for edge in span]
        assert edges == sorted(set(edges))  # in text order, apart, none empty
        prefix = {k for start, end in segment.prefix for k in range(start, end)}
        assert segment.prefix_len == len(prefix)
        for t in range(segment.start, segment.end):
            assert set(np.flatnonzero(seen[t])) == prefix | set(range(segment.start, t + 1))
            assert height[t] == segment.position + t - segment.start
    assert at == len(tokens)


@texts
@given(made_texts(min_depth=1))
def test_segments_are_as_long_as_they_can_be(made: Made) -> None:
    """Neighbours could be one segment only if the later one saw all of the earlier one, and
    nothing else but what that saw."""
    tokens, seen = truth(made)
    runs = segments(parse(tokens, DIALECT))
    for left, right in itertools.pairwise(runs):
        t = right.start
        assert set(np.flatnonzero(seen[t])) != {*np.flatnonzero(seen[t - 1]), t}
        assert left.end == t


@texts
@given(st.lists(made_texts(), max_size=4), st.integers(0, 5))
def test_packed_texts_and_padding_see_only_themselves(texts: list[Made], padding: int) -> None:
    layouts = [layout(made.tokens(), DIALECT) for made in texts] + [plain(padding)]
    packed = pack(layouts)
    total = sum(map(len, layouts))
    expected = np.zeros((total, total), dtype=bool)
    at = 0
    for one in layouts:
        end = at + len(one)
        expected[at:end, at:end] = oracle.from_order(one.order)
        np.testing.assert_array_equal(packed.position[at:end], one.position)
        if len(one):
            assert packed.left_hidden[at] == (at > 0)
        at = end
    np.testing.assert_array_equal(oracle.from_order(packed.order), expected)
    assert sorted(packed.order) == list(range(total))


def test_empty_text() -> None:
    laid = layout([], DIALECT)
    assert len(laid) == 0
    assert laid.critical_path == 0
    assert segments(parse([], DIALECT)) == []
    assert len(pack([])) == 0


def test_a_small_example_by_hand() -> None:
    """Two paths of 3 and 4 tokens after a trunk of 9, then a conclusion."""
    P, G, O, o, g, p, q, C = 2, 4, 6, 7, 5, 8, 9, 10  # noqa: E741
    tokens = [50, P, G, O, o, O, o, g, 20, p, 51, q, p, 51, 52, q, C, 53]
    laid = layout(tokens, DIALECT)
    assert laid.position.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 9, 10, 11, 12, 13, 14]
    assert laid.order.tolist() == [*range(9), 13, 14, 15, 9, 10, 11, 12, 16, 17]
    assert np.flatnonzero(laid.left_hidden).tolist() == [12]


def test_a_thought_that_ends_in_a_nested_path_goes_on_after_the_longest_path() -> None:
    opening = [2, 4, 6, 7, 6, 7, 5]
    long, short = [8, *[WORD] * 50, 9], [8, WORD]
    tokens = [*opening, *long, 8, *opening, *short, int(Tag.END_THINK)]
    assert layout(tokens, DIALECT).position[-1] == len(opening) + len(long)


def test_nesting_of_any_depth() -> None:
    """A model that opens blocks for ever is no reason to fail."""
    opening = [2, 4, 6, 7, 6, 7, 5, 8]
    tokens = opening * 3000
    laid = layout(tokens, DIALECT)
    np.testing.assert_array_equal(laid.position, np.arange(len(tokens)))
    assert parse(tokens, DIALECT).depth == 3000
    assert len(segments(parse(tokens, DIALECT))) == 1


@pytest.mark.parametrize("depth", [1, 4])
def test_a_text_of_32k_tokens_takes_milliseconds(depth: int) -> None:
    made = make(7, depth=depth, words=60, blocks=200, canonical=True)
    tokens = made.tokens()
    while len(tokens) < 32_768:
        tokens += tokens
    ids = np.asarray(tokens[:32_768])
    best = min(_seconds(ids) for _ in range(3))
    assert best < 0.25, f"{best:.3f} s"


def _seconds(ids: np.ndarray) -> float:
    begin = time.process_time()  # other processes may have the machine
    laid: Layout = layout(ids, DIALECT)
    assert len(laid) == len(ids)
    return time.process_time() - begin
