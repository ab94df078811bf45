"""The forwards a text is said to need are those its layout asks for."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from sglang_multiverse.bench.forwards import StepCost, Work, in_parallel, sequential, together
from sglang_multiverse.bench.shapes import Author, Fork, Script, Shape, forked, of_trace, plain
from sglang_multiverse.layout import layout_of

from ..core.generate import DIALECT, WORD
from ..core.oracle import addresses_of, visible


class Tokenizer:
    """Ids of the generated dialect; two words."""

    all_special_ids = (DIALECT[0], WORD + 9)
    eos_token_id = WORD + 9

    def __len__(self) -> int:
        return WORD + 10

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [22 if sign == "." else 30 + int(sign) for sign in text]


AUTHOR = Author(Tokenizer(), DIALECT)


def random_shape(rng: Random, blocks: list[int]) -> Shape:
    """A shape of at most ``blocks[0]`` blocks, one inside another as they come."""
    items: list[int | Fork] = [rng.randint(1, 6)]
    while blocks[0] and rng.random() < 0.6:
        blocks[0] -= 1
        paths = tuple(random_shape(rng, blocks) for _ in range(rng.randint(2, 3)))
        items += [Fork((1,) * len(paths), paths, rng.randint(1, 3)), rng.randint(1, 4)]
    return Shape(tuple(items))


def expected_reads(script: Script) -> Counter[int]:
    """Length of every row, from a mask made by brute force.

    Each sampled token is the sample of a row that ends at the token before it; each path's end is
    written by a row of its own.
    """
    seen = visible(addresses_of(script.trace)).sum(axis=1)
    injected: set[int] = set()
    ends = []
    for block, _ in script.trace.walk():
        injected |= set(range(block.region_start - len(DIALECT.goal_tail), block.region_start))
        for path in block.paths:
            injected |= set(range(path.start, script.ids.index(DIALECT.colon, path.start) + 1))
            injected |= set(range(path.close or path.end, path.end))
            ends.append(path.end - 1)
        injected |= set(range(block.region_end, block.region_end + len(DIALECT.conclusion_seed)))
    sampled = [t for t in range(script.prompt_len, len(script.ids)) if t not in injected]
    return Counter([int(seen[t - 1]) for t in sampled] + [int(seen[t]) for t in ends])


@pytest.mark.parametrize("seed", range(25))
def test_rows_read_what_the_mask_shows(seed: int) -> None:
    script = AUTHOR.write(random_shape(Random(seed), [3]), seed, prompt=5)
    works = in_parallel(script)
    reads = expected_reads(script)
    assert sum(work.rows for work in works) == sum(reads.values())
    assert sum(work.kv for work in works) == sum(length * n for length, n in reads.items())
    # Every token but the last, the end of text, is computed once.
    assert sum(work.tokens for work in works) == len(script.ids) - 1


@pytest.mark.parametrize("seed", range(30))
def test_forwards_never_outnumber_the_critical_path(seed: int) -> None:
    script = AUTHOR.write(random_shape(Random(seed), [3]), seed)
    assert len(in_parallel(script)) <= script.critical_path


def test_a_block_of_equal_paths_takes_a_forward_for_its_fork_and_one_for_its_join() -> None:
    script = AUTHOR.write(forked(3, 10, around=4), 0, prompt=5)
    block = script.trace.blocks[0]
    goal = block.region_start - len(DIALECT.goal_tail)
    before = goal - script.prompt_len
    after = len(script.ids) - block.region_end - len(DIALECT.conclusion_seed)
    works = in_parallel(script)
    assert len(works) == before + (10 + 1) + after  # each path samples its text and </Path>
    assert [work.rows for work in works] == [1] * before + [3] * 11 + [4] + [1] * (after - 1)


def test_a_join_waits_for_the_longest_path_wherever_it_stands() -> None:
    def forwards(*lengths: int) -> int:
        paths = tuple(plain(length) for length in lengths)
        shape = Shape((2, Fork((1,) * len(paths), paths, 2), 2))
        return len(in_parallel(AUTHOR.write(shape, 0)))

    assert forwards(9, 2, 4) == forwards(2, 4, 9) == forwards(9, 9, 9)
    assert forwards(9, 2, 4) == forwards(2, 4, 2) + 5


def test_without_a_fork_both_plans_are_the_same() -> None:
    script = AUTHOR.write(plain(9), 1, prompt=4)
    assert in_parallel(script) == sequential(script)
    assert len(sequential(script)) == 10


def test_texts_at_once_add_up() -> None:
    one, two = [Work(1, 4, 4), Work(1, 1, 5)], [Work(2, 2, 8)]
    assert together([one, two]) == [Work(3, 6, 12), Work(1, 1, 5)]


def test_costs_are_read_off_between_the_measured_rows() -> None:
    cost = StepCost({1: 1.0, 3: 2.0}, kv_per_row=10, token=0.1, kv=0.01)
    assert cost.seconds(Work(1, 1, 10)) == pytest.approx(1.0)
    assert cost.seconds(Work(2, 2, 20)) == pytest.approx(1.5)
    assert cost.seconds(Work(6, 6, 60)) == pytest.approx(4.0)
    assert cost.seconds(Work(1, 6, 110)) == pytest.approx(1.0 + 0.5 + 1.0)


@pytest.mark.parametrize("degree", [1.0, 1.3, 1.5, 2.0, 3.0, 4.0])
def test_a_text_has_the_degree_that_was_asked_for(degree: float) -> None:
    script = AUTHOR.of_degree(degree, 200, 3)
    assert script.degree == pytest.approx(degree, rel=0.02)
    assert script.trace.well_formed


def test_shapes_of_real_traces_keep_their_blocks(traces) -> None:
    for row in traces("wellformed")[:40]:
        shape = of_trace(row["output"])
        assert shape is not None
        small = shape.scaled(300 / shape.text)
        assert small.text <= 1.3 * 300 + 200
        script = AUTHOR.write(small, 1)
        assert script.trace.n_blocks == _blocks(shape)
        assert layout_of(script.trace).critical_path < len(script.ids)


def _blocks(shape: Shape) -> int:
    forks = [item for item in shape.items if isinstance(item, Fork)]
    return len(forks) + sum(_blocks(path) for fork in forks for path in fork.paths)
