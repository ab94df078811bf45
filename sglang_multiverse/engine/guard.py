"""The tag guard: an automaton that knows which tags may come next.

It is a finite state machine over the twelve tags, the end of text and "anything else", as two
integer tables, ``allowed[state, symbol]`` and ``following[state, symbol]``, so that a device can
follow sampled tokens without waiting for the host. Words are allowed in every state: nothing is
ever masked altogether. It forbids what :mod:`sglang_multiverse.sequencer` would take as text or
:mod:`sglang_multiverse.structure` would report; what a model writes *between* tags is its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..dialect import Dialect, Tag
from ..sequencer import Limits
from ..structure import Trace

END_OF_TEXT = len(Tag)
WORD = len(Tag) + 1
SYMBOLS = len(Tag) + 2

#: State of a row that nobody guards.
FREE = 0

#: Most outlines an automaton counts; each is two states.
MAX_COUNTED = 1024


class Text(IntEnum):
    """Where a sequence stands outside its blocks."""

    START = 0  # the trunk, nothing written yet
    THOUGHT = 1  # after <Think>
    PLAIN = 2  # a trunk without a thought
    ANSWER = 3  # after </Think>
    PATH = 4


class Inside(IntEnum):
    """Where a sequence stands inside a block; GOAL and OUTLINE count outlines."""

    BLOCK = 0  # after <Parallel>
    GOAL = 1
    OUTLINE = 2
    FORKED = 3  # after </Goal>; the engine writes <Path> and <Conclusion>
    CONCLUSION = 4
    CLOSING = 5  # after </Conclusion>


@dataclass(frozen=True)
class _Name:
    text: Text
    inside: Inside | None = None
    count: int = 0


@dataclass(frozen=True)
class Automaton:
    """The automaton of one sequence under bounds.

    Args:
        max_branches: most outlines of a goal; None counts no further than two.
        forks: whether a block may open here at all.
    """

    max_branches: int | None
    forks: bool
    names: tuple[_Name, ...] = field(init=False, repr=False)
    index: dict[_Name, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [_Name(text) for text in Text]
        # Without forks here, a prompt may still end inside the conclusion of a block.
        insides = Inside if self.forks else (Inside.FORKED, Inside.CONCLUSION, Inside.CLOSING)
        for text in (Text.THOUGHT, Text.PLAIN, Text.PATH):
            names += [
                _Name(text, inside, count)
                for inside in insides
                for count in (range(self._top + 1) if inside in _COUNTED else (0,))
            ]
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "index", {name: i for i, name in enumerate(names)})

    @property
    def _top(self) -> int:
        """The count that stands for itself and, without a bound, for all above it."""
        return 2 if self.max_branches is None else self.max_branches

    def _counts(self, count: int) -> bool:
        """Whether a goal with ``count`` outlines may have one more."""
        return self.max_branches is None or count < self.max_branches

    def tables(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """``allowed`` and ``following``, both of shape ``(states, SYMBOLS)``."""
        size = len(self.names)
        allowed = np.zeros((size, SYMBOLS), dtype=bool)
        following = np.zeros((size, SYMBOLS), dtype=np.int64)
        for i, name in enumerate(self.names):
            allowed[i, [WORD, *self._allowed(name)]] = True
            following[i] = [self.index[self._after(name, symbol)] for symbol in range(SYMBOLS)]
        return allowed, following

    def _allowed(self, name: _Name) -> Iterator[int]:
        text, inside, count = name.text, name.inside, name.count
        if inside is None:
            if self.forks and text in (Text.START, Text.THOUGHT, Text.PLAIN, Text.PATH):
                yield Tag.PARALLEL
            if text is Text.START:
                yield Tag.THINK
            if text is Text.THOUGHT:
                yield Tag.END_THINK
            else:
                yield END_OF_TEXT  # in a path the engine makes it </Path>
            if text is Text.PATH:
                yield Tag.END_PATH
        elif inside is Inside.BLOCK:
            yield Tag.GOAL
        elif inside is Inside.GOAL:
            if self._counts(count):
                yield Tag.OUTLINE
            if count >= 2:
                yield Tag.END_GOAL
        elif inside is Inside.OUTLINE:
            yield Tag.END_OUTLINE
        elif inside is Inside.CONCLUSION:
            yield Tag.END_CONCLUSION
        elif inside is Inside.CLOSING:
            yield Tag.END_PARALLEL

    def _after(self, name: _Name, symbol: int) -> _Name:
        """The state that follows, also after what is not allowed: a prompt may hold anything."""
        text, inside, count = name.text, name.inside, name.count
        if symbol in (WORD, END_OF_TEXT):
            return _Name(Text.PLAIN) if name == _Name(Text.START) and symbol == WORD else name
        if inside is Inside.BLOCK and symbol == Tag.GOAL:
            return _Name(text, Inside.GOAL)
        if inside is Inside.GOAL and symbol == Tag.OUTLINE and self._counts(count):
            return _Name(text, Inside.OUTLINE, count)
        if inside is Inside.GOAL and symbol == Tag.END_GOAL and count >= 2:
            return _Name(text, Inside.FORKED)
        if inside is Inside.OUTLINE and symbol == Tag.END_OUTLINE:
            return _Name(text, Inside.GOAL, min(count + 1, self._top))
        if inside is Inside.FORKED:
            return _Name(text, Inside.CONCLUSION) if symbol == Tag.CONCLUSION else name
        if inside is Inside.CONCLUSION:
            return _Name(text, Inside.CLOSING) if symbol == Tag.END_CONCLUSION else name
        if inside is Inside.CLOSING:
            return _Name(text) if symbol == Tag.END_PARALLEL else name
        # In text, or in an opening that this tag breaks off.
        if symbol == Tag.PARALLEL and self.forks:
            within = Text.PLAIN if text in (Text.START, Text.ANSWER) else text
            return _Name(within, Inside.BLOCK)
        if text is not Text.PATH and symbol == Tag.THINK:
            return _Name(Text.THOUGHT)
        if text is not Text.PATH and symbol == Tag.END_THINK:
            return _Name(Text.ANSWER)
        return _Name(text)


_COUNTED = (Inside.GOAL, Inside.OUTLINE)


class Prompt(NamedTuple):
    """What the structure of a prompt leaves to follow.

    Attributes:
        thought: whether a thought is open where ``tags`` begin.
        joined: whether ``tags`` begin at the ``<Conclusion>`` of a block.
        tags: the tags that are structure, from the last finished block on, or all.
    """

    thought: bool
    joined: bool
    tags: Sequence[int]

    @classmethod
    def of(cls, trace: Trace, offsets: Sequence[int], tags: Sequence[int]) -> Prompt:
        """Of a parsed prompt, with the offsets of its structural tags and what they are."""
        resume = max((block.region_end for block in trace.blocks), default=0)
        before = bisect_left(offsets, resume)
        thoughts = [tag for tag in tags[:before] if tag in (Tag.THINK, Tag.END_THINK)]
        return cls(thoughts[-1:] == [Tag.THINK], bool(trace.blocks), tags[before:])


class Tables:
    """The automata of all bounds met so far in one pair of tables; row 0 is :data:`FREE`.

    Attributes:
        allowed: bool, shape ``(states, SYMBOLS)``.
        following: int64, the same shape.
    """

    def __init__(self) -> None:
        self.allowed: npt.NDArray[np.bool_] = np.ones((1, SYMBOLS), dtype=bool)
        self.following: npt.NDArray[np.int64] = np.zeros((1, SYMBOLS), dtype=np.int64)
        self._offsets: dict[Automaton, int] = {}

    def __len__(self) -> int:
        return len(self.allowed)

    def add(self, automaton: Automaton) -> int:
        """Where the states of ``automaton`` begin."""
        offset = self._offsets.get(automaton)
        if offset is None:
            offset = self._offsets[automaton] = len(self)
            allowed, following = automaton.tables()
            self.allowed = np.concatenate([self.allowed, allowed])
            self.following = np.concatenate([self.following, following + offset])
        return offset

    def state(
        self,
        limits: Limits,
        depth: int,
        written: Sequence[int],
        prompt: Prompt | None = None,
    ) -> int:
        """The state of a sequence ``depth`` blocks down, after what it has written.

        Args:
            written: symbols of its own tokens after the prompt, those of joined paths included.
            prompt: what the prompt leaves open, of a trunk. None: nothing.
        """
        automaton = _automaton(limits, depth)
        offset = self.add(automaton)
        state = offset + (Text.PATH if depth else Text.START)
        if prompt is not None:
            state = offset + automaton.index[self._opened(automaton, offset, prompt)]
        for symbol in written[:1]:
            state = int(self.following[state, symbol])
        return self._follow(state, (s for s in written[1:] if s != WORD), offset, automaton)

    def _opened(self, automaton: Automaton, offset: int, prompt: Prompt) -> _Name:
        """What is open at the end of a prompt; otherwise the answer starts anew."""
        name = _Name(Text.THOUGHT if prompt.thought else Text.PLAIN)
        if prompt.joined:
            name = _Name(name.text, Inside.FORKED)
        state = self._follow(offset + automaton.index[name], prompt.tags, offset, automaton)
        name = automaton.names[state - offset]
        return name if name.inside is not None or name.text is Text.THOUGHT else _Name(Text.START)

    def _follow(self, state: int, symbols: Iterable[int], offset: int, automaton: Automaton) -> int:
        """Follow symbols, over the paths of joined blocks: those have automata of their own."""
        level = 0
        for symbol in symbols:
            if automaton.names[state - offset].inside is Inside.FORKED:
                if symbol in (Tag.PATH, Tag.END_PATH):
                    level += 1 if symbol == Tag.PATH else -1
                if level:
                    continue
            state = int(self.following[state, symbol])
        return state


def _automaton(limits: Limits, depth: int) -> Automaton:
    wide = limits.max_branches is None or limits.max_branches >= 2
    shallow = limits.max_depth is None or depth + 1 <= limits.max_depth
    if not (wide and shallow):
        return Automaton(None, False)
    return Automaton(limits.max_branches, True)


def symbols_of(dialect: Dialect, vocab_size: int, ends: Iterable[int]) -> npt.NDArray[np.int64]:
    """The symbol of every token id, shape ``(vocab_size,)``.

    Args:
        ends: ids that end a text.
    """
    symbols = np.full(vocab_size, WORD, dtype=np.int64)
    symbols[[token for token in ends if 0 <= token < vocab_size]] = END_OF_TEXT
    symbols[list(dialect.tag_ids)] = list(Tag)
    return symbols
