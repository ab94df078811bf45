"""Share-every-k: layout, segments and packing of paths that see one another's earlier chunks."""

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

HUGE = 10**9

texts = settings(max_examples=150, deadline=None)
every = st.one_of(st.sampled_from([1, 4, 16]), st.integers(1, 12))
any_text = st.one_of(made_texts().map(Made.tokens), made_texts(min_depth=1).map(Made.tokens))


def flat_texts() -> st.SearchStrategy[Made]:
    """Texts of blocks in the trunk alone, whose paths are long beside ``every``."""
    return st.builds(
        lambda seed, words, blocks, canonical: make(
            seed, depth=1, words=words, blocks=blocks, canonical=canonical
        ),
        st.integers(0, 2**32 - 1),
        st.integers(0, 12),
        st.integers(1, 3),
        st.booleans(),
    )


def truth(tokens: list[int], k: int) -> oracle.Bools:
    return oracle.shared(oracle.addresses_of(parse(tokens, DIALECT)), k)


@texts
@given(flat_texts(), every)
def test_a_token_sees_the_chunks_of_its_siblings_that_stand_wholly_before_its_own(made, k):
    """The definition, word for word, where paths hold no blocks."""
    trace = parse(made.tokens(), DIALECT)
    expected = oracle.visible(oracle.addresses_of(trace))
    for block in trace.blocks:
        for mine, other in itertools.permutations(block.paths, 2):
            for t in range(mine.start, mine.end):
                chunk = (t - mine.start) // k
                expected[t, other.start : min(other.start + chunk * k, other.end)] = True
    np.testing.assert_array_equal(oracle.from_layout(layout_of(trace, share_every=k)), expected)


@texts
@given(any_text, every)
def test_rank_and_order_are_the_mask_at_any_depth(tokens, k):
    laid = layout(tokens, DIALECT, share_every=k)
    ends = list(range(len(tokens)))
    assert sorted(laid.order) == ends
    assert laid.rank is None or sorted(laid.rank) == ends
    seen = oracle.from_layout(laid)
    np.testing.assert_array_equal(seen, truth(tokens, k))
    assert oracle.transitive(seen)
    assert seen.diagonal().all()


@texts
@given(tag_soup(), every)
def test_tags_in_any_order_have_a_sound_layout(tokens, k):
    seen = oracle.from_layout(layout(tokens, DIALECT, share_every=k))
    np.testing.assert_array_equal(seen, truth(tokens, k))
    assert oracle.transitive(seen)


@texts
@given(any_text, every)
def test_positions_are_longest_chains_and_stay_where_they_are_without_sharing(tokens, k):
    laid = layout(tokens, DIALECT, share_every=k)
    assert laid.position.tolist() == oracle.chains(truth(tokens, k))
    np.testing.assert_array_equal(laid.position, layout(tokens, DIALECT).position)


@texts
@given(st.one_of(any_text, tag_soup()))
def test_chunks_longer_than_every_path_are_no_sharing(tokens):
    trace = parse(tokens, DIALECT)
    laid, bare = layout_of(trace, share_every=HUGE), layout_of(trace)
    assert laid.rank is None
    np.testing.assert_array_equal(laid.order, bare.order)
    np.testing.assert_array_equal(laid.position, bare.position)
    assert segments(trace, share_every=HUGE) == segments(trace)


@texts
@given(any_text, every)
def test_left_hidden_marks_tokens_that_do_not_see_their_left_neighbour(tokens, k):
    seen = truth(tokens, k)
    laid = layout(tokens, DIALECT, share_every=k)
    assert laid.left_hidden.tolist() == [t > 0 and not seen[t, t - 1] for t in range(len(tokens))]
    # Sharing never shows a path's last token to the first of the next: labels stay the same.
    np.testing.assert_array_equal(laid.left_hidden, layout(tokens, DIALECT).left_hidden)


@texts
@given(st.one_of(any_text, tag_soup()), every)
def test_segments_tile_the_text_and_name_what_is_visible(tokens, k):
    trace = parse(tokens, DIALECT)
    seen = truth(tokens, k)
    position = oracle.chains(seen)
    at = 0
    for segment in segments(trace, share_every=k):
        assert segment.start == at < segment.end
        at = segment.end
        edges = [edge for span in segment.prefix for edge in span]
        assert edges == sorted(set(edges))  # in text order, apart, none empty
        prefix = {k for start, end in segment.prefix for k in range(start, end)}
        assert segment.prefix_len == len(prefix)
        for t in range(segment.start, segment.end):
            own = set(range(segment.start, t + 1))
            assert not own & prefix
            assert set(np.flatnonzero(seen[t])) == prefix | own
            assert position[t] == segment.position + t - segment.start
    assert at == len(tokens)


@texts
@given(any_text, every)
def test_segments_are_as_long_as_they_can_be(tokens, k):
    seen = truth(tokens, k)
    for left, right in itertools.pairwise(segments(parse(tokens, DIALECT), share_every=k)):
        t = right.start
        assert set(np.flatnonzero(seen[t])) != {*np.flatnonzero(seen[t - 1]), t}
        assert left.end == t


@texts
@given(any_text, every)
def test_segments_by_the_rank_of_their_first_tokens_have_their_prefix_before_them(tokens, k):
    trace = parse(tokens, DIALECT)
    rank = layout_of(trace, share_every=k).rank
    done: set[int] = set()
    for run in sorted(
        segments(trace, share_every=k), key=lambda s: s.start if rank is None else rank[s.start]
    ):
        assert done.issuperset(t for start, end in run.prefix for t in range(start, end))
        done.update(range(run.start, run.end))


# A prefix of the text. What a token sees may stand behind it, so a cut can take it away.


@settings(max_examples=60, deadline=None)
@given(st.one_of(any_text, tag_soup()), every)
def test_a_prefix_keeps_its_positions_and_who_sees_whom_within_it(tokens, k):
    whole = layout(tokens, DIALECT, share_every=k)
    seen = oracle.from_layout(whole)
    for n in range(len(tokens)):
        part = layout(tokens[:n], DIALECT, share_every=k)
        np.testing.assert_array_equal(part.position, whole.position[:n])
        np.testing.assert_array_equal(oracle.from_layout(part), seen[:n, :n])


@texts
@given(any_text, every)
def test_a_prefix_that_ends_outside_every_block_loses_nothing_that_it_saw(tokens, k):
    seen = truth(tokens, k)
    blocks = parse(tokens, DIALECT).blocks
    for n in range(len(tokens)):
        if not any(block.region_start < n < block.region_end for block in blocks):
            assert not seen[:n, n:].any()


def test_a_prefix_that_ends_between_two_paths_loses_what_the_first_saw_of_the_second():
    tokens = block([WORD] * 6, [WORD] * 6)
    (found,) = parse(tokens, DIALECT).blocks
    cut = found.paths[1].start
    seen = oracle.from_layout(layout(tokens, DIALECT, share_every=4))
    assert seen[cut - 1, cut:].any()
    assert layout(tokens[:cut], DIALECT, share_every=4).rank is not None
    assert not oracle.from_layout(layout(tokens, DIALECT))[cut - 1, cut:].any()


# Packing, and examples by hand.


@texts
@given(st.lists(st.tuples(made_texts(), every | st.none()), max_size=4), st.integers(0, 5))
def test_packed_texts_and_padding_see_only_themselves(some, padding):
    layouts = [layout(made.tokens(), DIALECT, share_every=k) for made, k in some]
    layouts.append(plain(padding))
    packed = pack(layouts)
    total = sum(map(len, layouts))
    expected = np.zeros((total, total), dtype=bool)
    at = 0
    for one in layouts:
        end = at + len(one)
        expected[at:end, at:end] = oracle.from_layout(one)
        np.testing.assert_array_equal(packed.position[at:end], one.position)
        if len(one):
            assert packed.left_hidden[at] == (at > 0)
        at = end
    np.testing.assert_array_equal(oracle.from_layout(packed), expected)
    assert (packed.rank is None) == all(one.rank is None for one in layouts)


def block(*bodies: list[int]) -> list[int]:
    """A block of paths; ``<Path>`` and ``</Path>`` stand around each of ``bodies``."""
    opening = [Tag.PARALLEL, Tag.GOAL, *[Tag.OUTLINE, Tag.END_OUTLINE] * 2, Tag.END_GOAL]
    paths = [token for body in bodies for token in (Tag.PATH, *body, Tag.END_PATH)]
    return [int(token) for token in [*opening, *paths, Tag.CONCLUSION, WORD]]


def test_a_small_example_by_hand():
    """Two paths of 5 and 3 tokens after a trunk of 7, shared every 2."""
    laid = layout(block([WORD] * 3, [WORD]), DIALECT, share_every=2)
    assert laid.position.tolist() == [*range(7), *range(7, 12), *range(7, 10), 12, 13]
    #                                        path 1: chunks of 2, 2, 1; path 2: of 2, 1
    assert laid.rank.tolist() == [*range(7), 7, 8, 11, 12, 14, 9, 10, 13, 15, 16]
    assert laid.order.tolist() == [*range(7), 9, 10, 12, 13, 14, 7, 8, 11, 15, 16]
    runs = segments(parse(block([WORD] * 3, [WORD]), DIALECT), share_every=2)
    assert [(run.start, run.end, run.prefix) for run in runs] == [
        (0, 9, ()),
        (9, 11, ((0, 9), (12, 14))),
        (11, 12, ((0, 11), (12, 15))),
        (12, 14, ((0, 7),)),
        (14, 15, ((0, 9), (12, 14))),
        (15, 17, ((0, 15),)),
    ]


def test_a_chunk_that_sees_nothing_new_begins_no_segment():
    """The second path has ended when the first goes on."""
    trace = parse(block([WORD] * 30, [WORD]), DIALECT)
    assert len(segments(trace, share_every=4)) == len(segments(trace)) + 1


@pytest.mark.parametrize("share_every", [0, -1, True, 2.0, "4"])
def test_what_is_no_number_of_tokens_is_refused(share_every):
    with pytest.raises(ValueError, match="share_every"):
        layout([WORD], DIALECT, share_every=share_every)
    with pytest.raises(ValueError, match="share_every"):
        segments(parse([WORD], DIALECT), share_every=share_every)


@pytest.mark.parametrize("tokens", [[], [WORD], [WORD] * 9])
def test_a_text_without_blocks_is_causal(tokens):
    laid = layout(tokens, DIALECT, share_every=1)
    assert laid.rank is None
    assert laid.order.tolist() == list(range(len(tokens)))
    assert segments(parse(tokens, DIALECT), share_every=1) == segments(parse(tokens, DIALECT))


def test_nesting_of_any_depth():
    tokens = [2, 4, 6, 7, 6, 7, 5, 8] * 3000
    laid = layout(tokens, DIALECT, share_every=16)
    np.testing.assert_array_equal(laid.position, np.arange(len(tokens)))
    np.testing.assert_array_equal(laid.order, np.arange(len(tokens)))


@pytest.mark.parametrize(("k", "most"), [(1, 4.0), (16, 0.5)])
def test_a_text_of_32k_tokens_takes_little_time(k, most):
    made = make(7, depth=4, words=60, blocks=200, canonical=True)
    tokens = made.tokens()
    while len(tokens) < 32_768:
        tokens += tokens
    trace = parse(np.asarray(tokens[:32_768]), DIALECT)

    def seconds() -> float:
        begin = time.process_time()  # other processes may have the machine
        laid: Layout = layout_of(trace, share_every=k)
        runs = segments(trace, share_every=k)
        assert len(laid) == runs[-1].end
        return time.process_time() - begin

    best = min(seconds() for _ in range(2))
    assert best < most, f"{best:.3f} s"
