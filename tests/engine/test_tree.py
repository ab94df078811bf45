"""The fork/join state machine against the parser and the layout, without an engine."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.engine.options import EngineOptions, OptionError
from sglang_multiverse.engine.tree import Node, Outcome, State, Tree
from sglang_multiverse.layout import layout_of
from sglang_multiverse.structure import parse

from ..core.generate import DIALECT, WORD

EOS = 9_999
Choose = Callable[[Node, random.Random], int]

_LIKELY = (Tag.PARALLEL, Tag.GOAL, Tag.OUTLINE, Tag.END_OUTLINE, Tag.END_GOAL, Tag.END_PATH)


def soup(node: Node, rng: random.Random) -> int:
    """Words and tags, those of a block's opening often in their order."""
    if rng.random() < 0.3:
        return WORD
    if rng.random() < 0.02 and node.parent is not None:
        return EOS
    if rng.random() < 0.7:
        follows = {Tag.PARALLEL: Tag.GOAL, Tag.GOAL: Tag.OUTLINE, Tag.OUTLINE: Tag.END_OUTLINE}
        last = next((t for t in reversed(node.tokens) if t in DIALECT.tag_of), None)
        tag = DIALECT.tag_of.get(last) if last is not None else None
        if tag is Tag.END_OUTLINE:
            return DIALECT[rng.choice((Tag.OUTLINE, Tag.END_GOAL, Tag.END_GOAL))]
        if tag in follows:
            return DIALECT[follows[tag]]
        return DIALECT[rng.choice((Tag.PARALLEL, Tag.END_PATH))]
    return rng.choice((*DIALECT.tag_ids, *(DIALECT[t] for t in _LIKELY)))


class Driver:
    """A scheduler in small: it steps live nodes in any order and joins whenever it may."""

    def __init__(self, tree: Tree, seed: int, choose: Choose = soup):
        self.tree = tree
        self.rng = random.Random(seed)
        self.choose = choose
        self.stream: list[int] = []
        self.sampled: list[bool] = []

    def step(self) -> None:
        tree, rng = self.tree, self.rng
        for node in tree.nodes():
            starts = node.state is State.QUEUED and rng.random() < 0.7
            if starts or node.state is State.RESUMING:
                node.state = State.RUNNING
        live = [node for node in tree.nodes() if node.state is State.RUNNING]
        rng.shuffle(live)
        for node in live:
            token = self.choose(node, rng)
            outcome = tree.accept(node, token)
            if outcome is Outcome.CONTINUE and token == EOS and node.parent is not None:
                tree.end_path(node, replace=True)
            if node.parent is None and outcome is not Outcome.DROP:
                self.stream.append(token)  # stock code appends the trunk's own samples
                self.sampled.append(True)
        if rng.random() < 0.5:
            self.read()
        for node in list(tree.nodes()):
            if not tree.over and tree.ready_to_join(node):
                self.read()
                tree.join(node)
                self.read()  # the trunk must be flushed before it samples again
        self.check()

    def read(self, *, everything: bool = False) -> None:
        emitted = self.tree.emit(everything=everything)
        self.stream.extend(emitted.tokens)
        self.sampled.extend(map(bool, emitted.sampled))

    def run(self) -> None:
        while not self.tree.over:
            if any(n.state is State.FORKED for n in self.tree.nodes()) or self.rng.random() < 0.99:
                self.step()
            else:
                break
        self.read(everything=True)

    def check(self) -> None:
        """What holds at any moment."""
        tree = self.tree
        assert tree.total == sum(len(n.tokens) for n in tree.nodes()) - tree.prompt_len
        assert tree.total <= tree.max_new_tokens
        for node in tree.nodes():
            if node.parent is not None and node.state is not State.OVER:
                assert node.parent.state is State.FORKED
                assert node.base == node.parent.row_len


def drive(seed: int, limit: int, options: EngineOptions | None = None) -> Driver:
    prompt = [WORD] * (seed % 3 + 1)
    driver = Driver(Tree(prompt, DIALECT, options or EngineOptions(), limit), seed)
    driver.run()
    return driver


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 260))
def test_the_stream_is_the_tree_in_canonical_order(seed: int, limit: int) -> None:
    driver = drive(seed, limit)
    tokens, _, _ = driver.tree.trace()
    assert driver.stream == list(tokens[driver.tree.prompt_len :])
    assert len(driver.stream) == driver.tree.total <= limit


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    branches=st.sampled_from([None, 2, 3]),
    depth=st.sampled_from([None, 1, 2]),
)
def test_positions_are_those_of_the_finished_text(
    seed: int, branches: int | None, depth: int | None
) -> None:
    """Whenever all blocks are joined, parser and engine see the same tree and the same place."""
    options = EngineOptions(max_branches=branches, max_depth=depth)
    driver = Driver(Tree([WORD], DIALECT, options, 400), seed)
    compared = 0
    for _ in range(200):
        if driver.tree.over:
            break
        driver.step()
        root = driver.tree.root
        if root.kids or driver.tree.over:
            continue
        driver.read()
        ids = [WORD, *driver.stream]
        trace = parse(ids, DIALECT, limits=options.limits)
        laid = layout_of(trace)
        assert ids == list(root.tokens)
        assert all(block.joined for block in trace.blocks)
        assert root.next_position == int(laid.position[-1]) + 1
        assert len(trace.blocks) <= driver.tree.tally.forks
        assert trace.n_blocks == driver.tree.tally.forks
        assert trace.n_paths == driver.tree.tally.paths
        compared += 1
    assert compared


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_open_trees_have_the_layout_their_rows_have(seed: int) -> None:
    """Row length and position of every node, from the whole tree's trace."""
    driver = Driver(Tree([WORD], DIALECT, EngineOptions(), 400), seed)
    for _ in range(120):
        if driver.tree.over:
            break
        driver.step()
        tokens, trace, starts = driver.tree.trace()
        laid = layout_of(trace)
        for node, start in starts.items():
            end = start + len(node.tokens)
            assert tokens[start:end] == node.tokens
            assert int(laid.position[end - 1]) == node.next_position - 1
            visible = (laid.order[:end] <= laid.order[end - 1]).sum()
            assert visible == node.row_len


def opening(outlines: int) -> list[int]:
    one = [DIALECT[Tag.OUTLINE], WORD, DIALECT[Tag.END_OUTLINE]]
    return [DIALECT[Tag.PARALLEL], DIALECT[Tag.GOAL], *one * outlines, DIALECT[Tag.END_GOAL]]


def fed(tree: Tree, node: Node, tokens: list[int]) -> list[Outcome]:
    return [tree.accept(node, token) for token in tokens]


def forked(limit: int = 1000, outlines: int = 2, dialect: Dialect = DIALECT) -> Tree:
    tree = Tree([WORD], dialect, EngineOptions(), limit)
    assert fed(tree, tree.root, opening(outlines))[-1] is Outcome.FORK
    for kid in tree.root.kids:
        kid.state = State.RUNNING
    return tree


def test_fork_seeds_every_path_where_the_goal_ends() -> None:
    tree = forked(outlines=3)
    root = tree.root
    assert tuple(root.tokens[-len(DIALECT.goal_tail) :]) == DIALECT.goal_tail
    assert [kid.base for kid in root.kids] == [root.row_len] * 3
    assert [tuple(kid.tokens) for kid in root.kids] == [
        DIALECT.path_seed(DIALECT.ordinal(i)) for i in range(3)
    ]


def test_the_longest_path_sets_the_conclusions_position() -> None:
    tree = forked()
    first, second = tree.root.kids
    fed(tree, first, [WORD] * 10)
    fed(tree, first, [DIALECT[Tag.END_PATH]])
    fed(tree, second, [DIALECT[Tag.END_PATH]])
    end = first.next_position
    assert tree.join(tree.root) == [first, second]
    assert tree.root.next_position == end + len(DIALECT.conclusion_seed)
    assert tree.root.state is State.RESUMING


@pytest.mark.parametrize("last", [EOS, DIALECT[Tag.END_THINK]], ids=["eos", "</Think>"])
def test_a_path_cut_short_is_closed_in_the_text(last: int) -> None:
    tree = forked()
    kid = tree.root.kids[0]
    fed(tree, kid, [WORD])
    outcome = tree.accept(kid, last)
    if outcome is Outcome.CONTINUE:
        outcome = tree.end_path(kid, replace=True)
    assert outcome is Outcome.END_PATH
    closing = (DIALECT[Tag.END_PATH], *DIALECT.path_tail)
    assert tuple(kid.tokens[-len(closing) :]) == closing
    assert not any(kid.sampled[-len(closing) :])
    assert last not in kid.tokens


def test_after_the_end_nothing_is_taken() -> None:
    tree = forked(limit=40)
    first, second = tree.root.kids
    while tree.accept(first, WORD) is not Outcome.LENGTH:
        pass
    before = tree.total
    assert tree.accept(second, WORD) is Outcome.DROP
    assert tree.total == before == 40


def test_a_fork_without_room_ends_the_request() -> None:
    tokens = opening(2)
    tree = Tree([WORD], DIALECT, EngineOptions(), len(tokens) + 3)
    assert fed(tree, tree.root, tokens)[-1] is Outcome.LENGTH
    assert not tree.root.kids


def test_a_prompt_inside_a_block_is_refused() -> None:
    inside = [*opening(2), *DIALECT.goal_tail, *DIALECT.path_seed(DIALECT.ordinal(0)), WORD]
    with pytest.raises(ValueError, match="inside a parallel block"):
        Tree(inside, DIALECT, EngineOptions(), 10)


@pytest.mark.parametrize(
    "given",
    [{"max_branches": -1}, {"max_live_rows": 0}, {"paths": 1}, 3, {"enabled": 1}],
)
def test_bad_options_name_themselves(given: object) -> None:
    with pytest.raises(OptionError, match="multiverse"):
        EngineOptions().for_request({"multiverse": given})


def test_a_request_tightens_but_never_widens() -> None:
    server = EngineOptions(max_branches=4, max_depth=2)
    assert server.for_request({"multiverse": {"max_branches": 9}}).max_branches == 4
    assert server.for_request({"multiverse": {"max_branches": 3}}).max_branches == 3
    assert server.for_request({"multiverse": False}).enabled is False
    assert server.for_request(None) is server


def test_a_prompt_that_ends_at_its_goal_forks_at_once() -> None:
    tail = list(DIALECT.goal_tail)
    for written in range(len(tail) + 1):
        prompt = [WORD, *opening(2), *tail[:written]]
        tree = Tree(prompt, DIALECT, EngineOptions(), 100)
        assert tree.begins_forked
        assert tree.begin() is Outcome.FORK
        assert list(tree.root.tokens) == [WORD, *opening(2), *tail]
        assert len(tree.root.kids) == 2
    with pytest.raises(ValueError, match="text follows"):
        Tree([WORD, *opening(2), WORD], DIALECT, EngineOptions(), 100)
    tight = Tree([WORD, *opening(2)], DIALECT, EngineOptions(), 3)
    assert tight.begin() is Outcome.LENGTH


def test_what_the_prompt_was_made_under_stays_when_a_request_is_tighter() -> None:
    path = [*DIALECT.path_seed(DIALECT.ordinal(0)), DIALECT[Tag.END_PATH], *DIALECT.path_tail]
    prompt = [*opening(3), *DIALECT.goal_tail, *3 * path, *DIALECT.conclusion_seed, WORD]
    narrow = EngineOptions(max_branches=2)
    tree = Tree(prompt, DIALECT, narrow, 100, prompt_limits=EngineOptions().limits)
    assert tree.structured_prompt
    assert fed(tree, tree.root, opening(3))[-1] is Outcome.CONTINUE
    _, trace, _ = tree.trace()
    assert len(trace.blocks) == 1


def test_the_answer_ends_at_a_stop_however_paths_were_scheduled() -> None:
    """Path 2 stops first; path 1 goes on to its end; path 3 does not count."""
    tree = forked(outlines=3)
    first, second, third = tree.root.kids
    fed(tree, third, [WORD] * 4)
    fed(tree, second, [WORD, WORD])
    tree.stop(second, len(second.tokens))
    assert tree.accept(second, WORD) is Outcome.DROP
    fed(tree, first, [WORD] * 5)
    read = list(tree.emit().tokens)
    assert tree.stopped is None
    fed(tree, first, [DIALECT[Tag.END_PATH]])
    read += tree.emit().tokens
    assert tree.stopped is second
    assert not tree.ready_to_join(tree.root)
    assert not tree.emit(everything=True)
    before = [*opening(3), *DIALECT.goal_tail, *first.tokens, *second.tokens]
    assert read == before[len(opening(3)) :]
    tree.cut(len(before))
    tokens, trace, _ = tree.trace()
    assert list(tokens) == [WORD, *before]
    assert [len(block.paths) for block in trace.blocks] == [2]


def test_a_chain_of_forks_far_deeper_than_is_served() -> None:
    """Walking, streaming and laying out a deep tree needs no deep stack."""
    depth = 1500
    tree = Tree([WORD], DIALECT, EngineOptions(), 10**6)
    object.__setattr__(tree.limits, "max_depth", None)
    node = tree.root
    for _ in range(depth):
        assert fed(tree, node, opening(2))[-1] is Outcome.FORK
        for kid in node.kids:
            kid.state = State.RUNNING
        node = node.kids[0]
    assert node.key == ".".join(["1"] * depth)
    assert len(list(tree.nodes())) == 2 * depth + 1
    assert len(tree.emit()) == sum(len(n.tokens) for n in node.lineage()[1:]) + len(
        DIALECT.goal_tail
    )
    tokens, trace, starts = tree.trace()
    assert trace.depth == depth
    assert len(starts) == 2 * depth + 1
    assert len(tokens) == tree.total + 1
