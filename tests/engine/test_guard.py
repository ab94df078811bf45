"""The tag guard's automaton against real answers, the parser and the sequencer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.dialect import Tag
from sglang_multiverse.engine.guard import (
    END_OF_TEXT,
    FREE,
    SYMBOLS,
    WORD,
    Automaton,
    Inside,
    Prompt,
    Tables,
    Text,
    symbols_of,
)
from sglang_multiverse.engine.options import EngineOptions, OptionError
from sglang_multiverse.lexer import lex
from sglang_multiverse.sequencer import Limits, Sequencer, Signal
from sglang_multiverse.structure import parse, tag_offsets

from ..core.generate import COLON, DIALECT, NEWLINE, ZERO
from ..core.generate import WORD as A_WORD

EOS = 99
SYMBOL_OF = symbols_of(DIALECT, 100, [EOS])
#: Codes that speak of words between tags, which the guard leaves alone, or of a text cut short.
OF_WORDS = {"goal_gap", "outline_gap", "outline_label", "path_label", "conclusion_gap", "path_gap"}
OF_A_CUT = {"unclosed", "unclosed_think"}

some_limits = st.builds(
    Limits, st.sampled_from([None, 2, 3, 5, 16]), st.sampled_from([None, 0, 1, 2, 4])
)


class Row:
    """A row as the device follows it: a state, moved on by one symbol at a time."""

    def __init__(self, tables: Tables, limits: Limits, depth: int):
        self.tables, self.limits, self.depth = tables, limits, depth
        self.state = tables.state(limits, depth, [])

    def allows(self, symbol: int) -> bool:
        return bool(self.tables.allowed[self.state, symbol])

    def take(self, symbol: int) -> None:
        self.state = int(self.tables.following[self.state, symbol])

    @property
    def forked(self) -> bool:
        """Only the engine writes on: no tag is allowed, and a conclusion leads elsewhere."""
        following = self.tables.following[self.state]
        return not any(map(self.allows, range(WORD))) and following[Tag.CONCLUSION] != self.state


def test_every_real_answer_passes(traces: Callable[[str], Any]) -> None:
    tables, limits = Tables(), EngineOptions().limits
    checked = 0
    for trace in traces("wellformed"):
        lexed = lex(trace["output"])
        rows = [Row(tables, limits, 0)]
        for offset, token in enumerate(lexed.ids.tolist()):
            tag = lexed.dialect.tag_of.get(token)
            symbol = WORD if tag is None else int(tag)
            row = rows[-1]
            if row.forked and tag is Tag.PATH:
                rows.append(Row(tables, limits, len(rows)))
                continue
            if not (row.forked and tag is Tag.CONCLUSION):
                assert row.allows(symbol), (
                    trace["id"],
                    offset,
                    lexed.text(offset - 20, offset + 9),
                )
                checked += tag is not None
            row.take(symbol)
            if tag is Tag.END_PATH:
                rows.pop()
        assert len(rows) == 1
        whole = not parse(lexed.ids, lexed.dialect).issues
        assert rows[0].allows(END_OF_TEXT) or not whole, trace["id"]
    print(f"\n{checked} sampled tags of real answers, none masked")
    assert checked > 1000


class Writer:
    """Samples at random from what the guard allows, with the engine's injections in between.

    With ``canonical`` it writes separators and labels where they belong; otherwise words anywhere.
    """

    def __init__(self, seed: int, limits: Limits, canonical: bool, budget: int):
        self.rng = random.Random(seed)
        self.limits = limits
        self.canonical = canonical
        self.left = budget
        self.tables = Tables()

    def write(self) -> list[int]:
        return self.sequence(0, [])

    def sequence(self, depth: int, seed: list[int]) -> list[int]:
        row, own = Row(self.tables, self.limits, depth), list(seed)
        for token in seed:
            row.take(int(SYMBOL_OF[token]))
        while self.left > 0:
            self.left -= 1
            token = self.choose(row, own)
            symbol = int(SYMBOL_OF[token])
            assert row.allows(symbol)
            own.append(token)
            row.take(symbol)
            if token == EOS and depth:  # the engine makes it </Path>
                own[-1] = DIALECT[Tag.END_PATH]
            if own[-1] == DIALECT[Tag.END_PATH]:
                return [*own, *DIALECT.path_tail]
            if token == EOS:
                return own
            if row.forked:
                own += self.block(depth, own)
                if self.left <= 0:
                    return own
                for tag in (Tag.CONCLUSION, WORD):
                    row.take(tag)
                own += DIALECT.conclusion_seed
            # What the host finds in the tokens is what the device has followed.
            if self.rng.random() < 0.1:
                symbols = SYMBOL_OF[own].tolist()
                assert row.state == self.tables.state(self.limits, depth, symbols)
        return own

    def block(self, depth: int, own: list[int]) -> list[int]:
        last = len(own) - 1 - own[::-1].index(DIALECT[Tag.GOAL])
        count = own[last:].count(DIALECT[Tag.OUTLINE])
        out = list(DIALECT.goal_tail)
        for i in range(count):
            out += self.sequence(depth + 1, list(DIALECT.path_seed(DIALECT.ordinal(i))))
            if self.left <= 0:
                break
        return out

    def choose(self, row: Row, own: list[int]) -> int:
        tags = [DIALECT[Tag(s)] for s in range(len(Tag)) if row.allows(s)]
        tags += [EOS] * row.allows(END_OF_TEXT)
        if not self.canonical:
            return self.rng.choice([*tags, A_WORD, NEWLINE, COLON])
        last = own[-1] if own else EOS
        if last in DIALECT.tag_of:
            return NEWLINE
        if tags in ([DIALECT[Tag.GOAL]], [DIALECT[Tag.END_PARALLEL]]):
            return tags[0]
        if DIALECT[Tag.OUTLINE] in tags or DIALECT[Tag.END_GOAL] in tags:
            return self.rng.choice(tags)
        if tags == [DIALECT[Tag.END_OUTLINE]]:
            start = len(own) - 1 - own[::-1].index(DIALECT[Tag.OUTLINE])
            goal = len(own) - 1 - own[::-1].index(DIALECT[Tag.GOAL])
            label = [*DIALECT.ordinal(own[goal:].count(DIALECT[Tag.OUTLINE]) - 1), COLON]
            written = own[start + 2 :]
            if len(written) < len(label):
                return label[len(written)]
        return self.rng.choice([*tags, A_WORD, A_WORD + 1])


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**6), limits=some_limits, budget=st.integers(1, 400))
def test_random_answers_are_well_formed_up_to_where_they_are_cut(
    seed: int, limits: Limits, budget: int
) -> None:
    writer = Writer(seed, limits, canonical=True, budget=budget)
    ids = writer.write()
    codes = {issue.code for issue in parse(ids, DIALECT, limits=limits).issues}
    assert codes <= (OF_A_CUT | {"path_count"} if writer.left <= 0 else set()), ids


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), limits=some_limits, budget=st.integers(1, 400))
def test_words_anywhere_break_no_tag(seed: int, limits: Limits, budget: int) -> None:
    writer = Writer(seed, limits, canonical=False, budget=budget)
    ids = writer.write()
    codes = {issue.code for issue in parse(ids, DIALECT, limits=limits).issues}
    assert codes <= OF_WORDS | (OF_A_CUT | {"path_count"} if writer.left <= 0 else set()), ids


def test_the_random_writer_reaches_everything() -> None:
    """So that the properties above speak of nested blocks, and of whole answers."""
    depths, whole = set(), 0
    for seed in range(200):
        writer = Writer(seed, EngineOptions().limits, canonical=True, budget=400)
        trace = parse(writer.write(), DIALECT)
        depths.add(trace.depth)
        whole += writer.left > 0 and trace.n_blocks > 0
    assert {0, 1, 2} <= depths
    assert whole > 20


@settings(max_examples=300, deadline=None)
@given(tags=st.lists(st.sampled_from(list(Tag)), max_size=40), limits=some_limits)
def test_a_goal_forks_for_the_automaton_when_it_does_for_the_sequencer(
    tags: list[Tag], limits: Limits
) -> None:
    """Also over what the guard would never let through, up to the first fork."""
    automaton = Automaton(limits.max_branches, True)
    _, following = automaton.tables()
    sequencer, state = Sequencer(DIALECT, 0, Limits(limits.max_branches)), int(Text.START)
    for offset, tag in enumerate(tags):
        signal = sequencer.feed_tag(tag, offset)
        state = int(following[state, tag])
        name = automaton.names[state]
        if name.inside in (Inside.CONCLUSION, Inside.CLOSING):
            break
        assert (name.inside is Inside.FORKED) == (signal is Signal.FORK)
        if signal is Signal.FORK:
            break


def test_words_are_never_masked() -> None:
    for branches in (None, 2, 16):
        for forks in (True, False):
            allowed, following = Automaton(branches, forks).tables()
            assert allowed[:, WORD].all()
            assert following.shape == allowed.shape == (len(allowed), SYMBOLS)
            assert ((following >= 0) & (following < len(allowed))).all()
            assert not allowed[:, [Tag.PATH, Tag.CONCLUSION]].any()


def test_tables_grow_without_moving_states() -> None:
    tables = Tables()
    assert tables.allowed[FREE].all()
    assert (tables.following[FREE] == FREE).all()
    first = tables.state(Limits(3, None), 0, [])
    before = tables.allowed.copy()
    assert tables.state(Limits(4, None), 0, []) >= len(before)
    assert tables.state(Limits(3, None), 0, []) == first
    assert np.array_equal(tables.allowed[: len(before)], before)


def goal(outlines: int) -> list[Tag]:
    return [Tag.PARALLEL, Tag.GOAL, *outlines * [Tag.OUTLINE, Tag.END_OUTLINE]]


@pytest.mark.parametrize(
    ("limits", "depth", "written", "allowed"),
    [
        (Limits(), 0, [], {Tag.THINK, Tag.PARALLEL, END_OF_TEXT}),
        (Limits(), 0, [WORD], {Tag.PARALLEL, END_OF_TEXT}),
        (Limits(), 0, [Tag.THINK], {Tag.PARALLEL, Tag.END_THINK}),
        (Limits(), 0, [Tag.THINK, WORD, Tag.END_THINK], {END_OF_TEXT}),
        (Limits(), 0, [Tag.THINK, Tag.PARALLEL], {Tag.GOAL}),
        (Limits(), 0, [Tag.THINK, *goal(1)], {Tag.OUTLINE}),
        (Limits(), 0, [Tag.THINK, *goal(2)], {Tag.OUTLINE, Tag.END_GOAL}),
        (Limits(2, None), 0, [Tag.THINK, *goal(2)], {Tag.END_GOAL}),
        (Limits(), 0, [Tag.THINK, *goal(2), Tag.OUTLINE], {Tag.END_OUTLINE}),
        (Limits(), 0, [Tag.THINK, *goal(2), Tag.END_GOAL], set()),
        (
            Limits(),
            0,
            [Tag.THINK, *goal(2), Tag.END_GOAL, *2 * [Tag.PATH, Tag.END_PATH], Tag.CONCLUSION],
            {Tag.END_CONCLUSION},
        ),
        (Limits(), 1, [Tag.PATH, WORD], {Tag.PARALLEL, Tag.END_PATH, END_OF_TEXT}),
        (Limits(None, 1), 1, [Tag.PATH, WORD], {Tag.END_PATH, END_OF_TEXT}),
        (Limits(1, None), 0, [Tag.THINK], {Tag.END_THINK}),
        (Limits(None, 0), 0, [Tag.THINK], {Tag.END_THINK}),
    ],
)
def test_what_may_come_next(
    limits: Limits, depth: int, written: list[int], allowed: set[int]
) -> None:
    tables = Tables()
    state = tables.state(limits, depth, written)
    assert set(np.flatnonzero(tables.allowed[state])) == allowed | {WORD}


_BLOCK = [
    *(Tag.PARALLEL, Tag.GOAL, *2 * [Tag.OUTLINE, Tag.END_OUTLINE], Tag.END_GOAL),
    *2 * [Tag.PATH, Tag.END_PATH],
    Tag.CONCLUSION,
]


@pytest.mark.parametrize(
    ("prompt", "allowed"),
    [
        ([], {Tag.THINK, Tag.PARALLEL, END_OF_TEXT}),
        ([Tag.THINK], {Tag.PARALLEL, Tag.END_THINK}),
        ([Tag.THINK, Tag.END_THINK], {Tag.THINK, Tag.PARALLEL, END_OF_TEXT}),
        ([Tag.THINK, *_BLOCK], {Tag.END_CONCLUSION}),
        ([Tag.THINK, *_BLOCK, Tag.END_CONCLUSION], {Tag.END_PARALLEL}),
        ([Tag.THINK, *_BLOCK, Tag.END_CONCLUSION, Tag.END_PARALLEL], {Tag.PARALLEL, Tag.END_THINK}),
        ([*_BLOCK, Tag.END_CONCLUSION, Tag.END_PARALLEL], {Tag.THINK, Tag.PARALLEL, END_OF_TEXT}),
        ([Tag.THINK, *goal(2)], {Tag.OUTLINE, Tag.END_GOAL}),
        # A path closed twice: the block has been joined all the same.
        (
            [*_BLOCK[:-1], Tag.END_PATH, Tag.CONCLUSION, Tag.END_CONCLUSION, Tag.END_PARALLEL],
            {Tag.THINK, Tag.PARALLEL, END_OF_TEXT},
        ),
    ],
)
def test_what_a_prompt_leaves_open(prompt: list[int], allowed: set[int]) -> None:
    ids = [A_WORD, *prompt, A_WORD]
    offsets = tag_offsets(ids, DIALECT).tolist()
    tags = [int(DIALECT.tag_of[ids[offset]]) for offset in offsets]
    tables = Tables()
    state = tables.state(Limits(), 0, [], Prompt.of(parse(ids, DIALECT), offsets, tags))
    assert set(np.flatnonzero(tables.allowed[state])) == allowed | {WORD}


def test_a_conclusion_that_a_prompt_leaves_open_can_be_closed_where_nothing_forks() -> None:
    tables, prompt = Tables(), Prompt(thought=True, joined=True, tags=[Tag.CONCLUSION])
    state = tables.state(Limits(None, 0), 0, [WORD], prompt)
    assert set(np.flatnonzero(tables.allowed[state])) == {Tag.END_CONCLUSION, WORD}


def test_symbols_of_a_vocabulary() -> None:
    assert [int(SYMBOL_OF[i]) for i in (*DIALECT.tag_ids, EOS, ZERO)] == [
        *range(12),
        END_OF_TEXT,
        WORD,
    ]


def test_the_switch() -> None:
    server = EngineOptions(tag_guard=True)
    assert server.for_request({"multiverse": {"max_branches": 3}}).tag_guard
    assert not server.for_request({"multiverse": {"tag_guard": False}}).tag_guard
    assert EngineOptions().for_request({"multiverse": {"tag_guard": True}}).tag_guard
    with pytest.raises(OptionError, match="tag_guard must be true or false"):
        EngineOptions().for_request({"multiverse": {"tag_guard": 1}})
    with pytest.raises(OptionError, match="counts up to"):
        EngineOptions(max_branches=5000, tag_guard=True)
