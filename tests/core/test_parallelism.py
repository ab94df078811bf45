"""Degree and net parallelism against counts made from the way a text was built."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.dialect import Tag
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import parse

from . import oracle
from .generate import DIALECT, NEWLINE, WORD, Made, made_texts


def overhead(made: Made) -> int:
    """Tokens of goals, conclusions and tags of blocks, gaps between tags included."""
    return sum(
        len(block.opening) + len(block.closing) + sum(1 + len(path.tail) for path in block.paths)
        for block, _ in made.blocks()
    )


@settings(max_examples=150, deadline=None)
@given(made_texts(), st.integers(0, 4))
def test_figures_are_counts_over_the_longest_chain(made: Made, prompt: int) -> None:
    tokens = made.tokens()
    measured = parallelism(parse([WORD] * prompt + tokens, DIALECT), prompt_tokens=prompt)
    heights = oracle.heights(oracle.visible([address for _, address in made.walk(())]))
    critical = max(heights, default=-1) + 1
    assert measured.tokens == len(tokens)
    assert measured.critical_path_tokens == critical
    assert measured.content_tokens == len(tokens) - overhead(made)
    assert (measured.blocks, measured.paths, measured.depth) == (
        len(list(made.blocks())),
        sum(len(block.paths) for block, _ in made.blocks()),
        max((depth for _, depth in made.blocks()), default=0),
    )
    if critical:
        assert measured.degree == len(tokens) / critical
        assert measured.net == measured.content_tokens / critical


@settings(max_examples=100, deadline=None)
@given(made_texts(min_depth=1), made_texts())
def test_a_prompt_with_finished_blocks_counts_for_nothing(prompt: Made, answer: Made) -> None:
    head, tokens = prompt.tokens(), answer.tokens()
    whole = parallelism(parse(head + tokens, DIALECT), prompt_tokens=len(head))
    alone = parallelism(parse(tokens, DIALECT))
    assert whole.tokens == alone.tokens
    assert whole.critical_path_tokens == alone.critical_path_tokens
    assert whole.content_tokens == alone.content_tokens
    # A prompt's blocks were not generated.
    assert (whole.blocks, whole.paths, whole.depth) == (alone.blocks, alone.paths, alone.depth)


def test_an_empty_text_is_sequential() -> None:
    measured = parallelism(parse([], DIALECT))
    assert (measured.tokens, measured.degree, measured.net) == (0, 1.0, 1.0)


@pytest.mark.parametrize("length", [3, 100])
def test_long_paths_pay_and_short_ones_do_not(length: int) -> None:
    opening = [Tag.PARALLEL, NEWLINE, Tag.GOAL, NEWLINE]
    opening += [Tag.OUTLINE, *[WORD] * 6, Tag.END_OUTLINE, NEWLINE] * 2
    opening += [Tag.END_GOAL, NEWLINE]
    path = [Tag.PATH, *[WORD] * length, Tag.END_PATH, NEWLINE]
    closing = [Tag.CONCLUSION, NEWLINE, WORD, Tag.END_CONCLUSION, NEWLINE, Tag.END_PARALLEL]
    measured = parallelism(parse([*opening, *path, *path, *closing], DIALECT))
    assert measured.degree > 1
    assert (measured.net > 1) == (length == 100)
    assert measured.tokens == len(opening) + 2 * len(path) + len(closing)
    assert measured.critical_path_tokens == measured.tokens - len(path)
