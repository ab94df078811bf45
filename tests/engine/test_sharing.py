"""Paths that share, on a scheduler in small: every token sees what the layout of the finished text
says, however rows were scheduled."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.dialect import Tag
from sglang_multiverse.engine.options import EngineOptions, OptionError
from sglang_multiverse.engine.sharing import Run, reached, runs
from sglang_multiverse.engine.tree import Node, Outcome, State, Tree
from sglang_multiverse.layout import layout
from sglang_multiverse.parallelism import parallelism

from ..core import oracle
from ..core.generate import DIALECT, WORD
from .test_tree import EOS, fed, opening

#: A token of the tree: its node and own index.
Token = tuple[Node, int]


@dataclass
class Path:
    """What a path has written, and the siblings' tokens that its row holds."""

    node: Node
    sees: dict[int, set[Token]] = field(default_factory=dict)
    row: set[Token] = field(default_factory=set)
    waits: list[Run] = field(default_factory=list)

    @property
    def written(self) -> int:
        return len(self.sees)

    def write(self, end: int) -> None:
        for at in range(self.written, end):
            self.sees[at] = set(self.row)


class Scheduler:
    """Steps running paths in any order, launches rows when it likes, takes all KV away at times."""

    def __init__(self, tree: Tree, seed: int, *, overlap: bool, most: int | None, retracts: bool):
        self.tree = tree
        self.rng = random.Random(seed)
        self.overlap = overlap
        self.most = most
        self.retracts = retracts
        self.paths = {kid: Path(kid) for kid in tree.root.kids}
        self.pauses = 0

    def tick(self) -> None:
        """Ask for what may be written, and launch it: ends first, then as many paths as run."""
        every = self.tree.share_every
        assert every is not None
        reach = reached(self.tree.root, every)
        found: list[tuple[Path, Run]] = []
        for kid, path in self.paths.items():
            if kid.state is State.RUNNING:
                continue
            found += [(path, run) for run in runs(kid, path.written, reach, every)]
        found.sort(key=lambda pair: (self.starts(*pair), pair[1].chunk))
        for path, run in found:
            live = sum(kid.state is State.RUNNING for kid in self.paths)
            starts = self.starts(path, run)
            if starts and live and self.most is not None and live >= self.most:
                continue
            self.launch(path, run)
            if starts:
                path.node.state, path.node.stale = State.RUNNING, None

    @staticmethod
    def starts(path: Path, run: Run) -> bool:
        return path.node.state is State.SHARING and run.end == len(path.node.tokens)

    def launch(self, path: Path, run: Run) -> None:
        assert path.written == run.start
        assert run.base == self.tree.root.row_len + sum(count for _, count in run.seen)
        assert run.base - run.delta == self.tree.root.next_position
        for sibling, count in run.seen:
            assert self.paths[sibling].written >= count
        path.row = {(kid, at) for kid, count in run.seen for at in range(count)}
        path.write(run.end)

    def step(self) -> None:
        live = [path for kid, path in self.paths.items() if kid.state is State.RUNNING]
        for path in self.rng.sample(live, self.rng.randint(1, len(live))):
            node, tree = path.node, self.tree
            path.write(len(node.tokens))
            token = self.rng.choice([WORD] * 12 + [DIALECT[Tag.END_PATH], EOS, DIALECT[Tag.GOAL]])
            outcome = tree.accept(node, token)
            if outcome is Outcome.CONTINUE and token == EOS:
                outcome = tree.end_path(node, replace=True)
            if outcome is Outcome.CONTINUE:
                outcome = tree.share(node)
            self.pauses += outcome is Outcome.SHARE
            if outcome is Outcome.CONTINUE:
                continue
            if self.overlap and node.stale is None:  # a step in flight wrote the token
                path.write(path.written + 1)

    def run(self) -> None:
        for _ in range(4000):
            if self.retracts and self.rng.random() < 0.05:
                for kid, path in self.paths.items():
                    path.sees.clear()
                    kid.stale = None
                    if kid.state is State.RUNNING:
                        kid.state = State.SHARING
            self.tick()
            if self.tree.over or self.tree.ready_to_join(self.tree.root):
                return
            self.step()  # fails when nothing runs: the paths would wait for one another for ever
        raise AssertionError("no end")


def block(seed: int, every: int, paths: int, **how: object) -> Scheduler:
    rng = random.Random(seed)
    tree = Tree([WORD] * 3, DIALECT, EngineOptions(share_every=every, max_depth=None), 2000)
    labels = [[WORD] * rng.randint(0, 2 * every) for _ in range(paths)]
    outlines = [[DIALECT[Tag.OUTLINE], *words, DIALECT[Tag.END_OUTLINE]] for words in labels]
    tags = [DIALECT[Tag.PARALLEL], DIALECT[Tag.GOAL], *chain.from_iterable(outlines)]
    fed(tree, tree.root, tags)
    assert tree.accept(tree.root, DIALECT[Tag.END_GOAL]) is Outcome.FORK
    assert all(kid.state is State.SHARING for kid in tree.root.kids)
    scheduler = Scheduler(tree, seed, **how)  # type: ignore[arg-type]
    scheduler.run()
    return scheduler


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    every=st.sampled_from([1, 2, 3, 4, 16]),
    paths=st.integers(2, 5),
    overlap=st.booleans(),
    most=st.sampled_from([None, 1, 2]),
    retracts=st.booleans(),
)
def test_every_token_sees_what_the_finished_text_says(
    seed: int, every: int, paths: int, overlap: bool, most: int | None, retracts: bool
) -> None:
    done = block(seed, every, paths, overlap=overlap, most=most, retracts=retracts)
    tree = done.tree
    done.tick()  # the ends of the paths
    kids = list(tree.root.kids)
    trunk = at = len(tree.root.tokens)
    start: dict[Node, int] = {}
    for kid in kids:
        start[kid], at = at, at + len(kid.tokens)
    tree.join(tree.root)
    ids = list(tree.root.tokens)
    laid = layout(ids, DIALECT, limits=tree.limits, share_every=every)
    expected = oracle.from_layout(laid)
    for kid, path in done.paths.items():
        assert path.written == len(kid.tokens)
        for own, foreign in path.sees.items():
            seen = [*range(trunk), *range(start[kid], start[kid] + own + 1)]
            seen += [start[other] + index for other, index in foreign]
            assert sorted(seen) == np.flatnonzero(expected[start[kid] + own]).tolist()


def test_paths_pause_only_where_there_is_more_to_see() -> None:
    tree = Tree([WORD], DIALECT, EngineOptions(share_every=4), 1000)
    fed(tree, tree.root, opening(2))
    first, second = tree.root.kids
    for kid in (first, second):
        kid.state = State.RUNNING
    fed(tree, second, [DIALECT[Tag.END_PATH]])
    end, waits = len(second.tokens), 0
    for _ in range(30):
        assert tree.accept(first, WORD) is Outcome.CONTINUE
        if tree.share(first) is Outcome.SHARE:
            waits += 1
            assert len(first.tokens) - 1 - 4 < end
            assert first.stale == len(first.tokens) - 1
            first.state, first.stale = State.RUNNING, None
    assert 1 <= waits <= end // 4 + 1


def test_paths_that_share_hold_no_blocks() -> None:
    tree = Tree([WORD], DIALECT, EngineOptions(share_every=4, max_depth=None), 1000)
    fed(tree, tree.root, opening(2))
    kid = tree.root.kids[0]
    kid.state = State.RUNNING
    assert Outcome.FORK not in fed(tree, kid, opening(2))


def test_a_replay_lays_out_the_trunk_and_leaves_paths_to_their_chunks() -> None:
    tree = Tree([WORD], DIALECT, EngineOptions(share_every=4), 1000)
    fed(tree, tree.root, opening(2))
    tokens, trace, starts = tree.trace(written_only=True)
    assert list(tokens) == list(tree.root.tokens)
    assert not trace.blocks and list(starts) == [tree.root]
    assert tree.written() == tree.total + 1  # what it takes to compute all of them
    assert parallelism(tree.trace()[1]).degree > 1


def test_sharing_is_the_servers_alone() -> None:
    with pytest.raises(OptionError, match="unknown field"):
        EngineOptions().for_request({"multiverse": {"share_every": 4}})
    with pytest.raises(OptionError, match=r"multiverse\.share_every=0"):
        EngineOptions(share_every=0)
    asked = EngineOptions(share_every=4).for_request({"multiverse": {"max_branches": 2}})
    assert asked.share_every == 4
    assert EngineOptions(max_depth=0, share_every=4).limits.max_depth == 0
