"""The automaton of one sequence: where a goal forks and where a path ends, token by token.

The engine runs a :class:`Sequencer` per live row; :mod:`sglang_multiverse.structure` runs a stack
of them over a finished text. What a token means depends on the tokens before it alone, so both
agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .dialect import Dialect, Tag


@dataclass(frozen=True)
class Limits:
    """Bounds over which a goal does not fork; its text is then ordinary, sequential text.

    Attributes:
        max_branches: most outlines of a goal that forks.
        max_depth: most blocks around one token.
    """

    max_branches: int | None = None
    max_depth: int | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Issue:
    """A departure from the canonical form, at a token offset."""

    code: str
    offset: int
    message: str

    def __str__(self) -> str:
        return f"{self.code} at token {self.offset}: {self.message}"


class Signal(Enum):
    """What a token means to the one who runs the sequence."""

    NONE = 0
    FORK = 1  # </Goal> of a goal that forks
    END_PATH = 2  # </Path> of this sequence
    END_THINK = 3  # </Think>: ends every open path


class _State(Enum):
    TEXT = 0
    BLOCK = 1  # after <Parallel>
    GOAL = 2
    OUTLINE = 3
    FORKED = 4  # after a forking </Goal>


class Sequencer:
    """The automaton of one sequence, fed token by token.

    A goal forks when ``<Parallel>``, ``<Goal>``, two or more whole outlines and ``</Goal>`` follow
    one another with no other tag between them, within ``limits``. Any other use of a tag is text.
    A model whose goal was declined may still write the paths, one after another: their
    ``</Path>`` closes what they opened, not the path around them.

    Args:
        depth: blocks around this sequence (0 for the trunk).
    """

    __slots__ = (
        "_declined",
        "_outline",
        "_state",
        "block_start",
        "depth",
        "dialect",
        "goal_end",
        "goal_start",
        "issues",
        "limits",
        "outlines",
    )

    def __init__(self, dialect: Dialect, depth: int = 0, limits: Limits = UNLIMITED):
        self.dialect = dialect
        self.depth = depth
        self.limits = limits
        self.issues: list[Issue] = []
        self.outlines: list[tuple[int, int]] = []
        self.block_start = self.goal_start = self.goal_end = self._outline = -1
        self._state = _State.TEXT
        # Blocks whose goal was declined: whether each has a path open, written as text.
        self._declined: list[bool] = []

    @property
    def open_tags(self) -> tuple[Tag, ...]:
        """Tags opened on the way to a goal that has not forked."""
        chain = (Tag.PARALLEL, Tag.GOAL, Tag.OUTLINE)
        depth = {_State.BLOCK: 1, _State.GOAL: 2, _State.OUTLINE: 3}.get(self._state, 0)
        return chain[:depth]

    @property
    def forked(self) -> bool:
        """Whether the last tag was the ``</Goal>`` of a goal that forks."""
        return self._state is _State.FORKED

    @property
    def closers(self) -> int:
        """How many ``</Path>`` end this path: its own, and one for every path of a declined goal
        that is still open. Whoever cuts a path short writes that many."""
        return 1 + sum(self._declined)

    def copy(self) -> Sequencer:
        """An independent automaton in the same state."""
        other = Sequencer(self.dialect, self.depth, self.limits)
        other._state = self._state
        other.outlines = list(self.outlines)
        other.block_start, other.goal_start = self.block_start, self.goal_start
        other.goal_end = self.goal_end
        other._outline = self._outline
        other._declined = list(self._declined)
        return other

    def feed(self, token: int, offset: int) -> Signal:
        """Take the token at ``offset`` and say what it means."""
        tag = self.dialect.tag_of.get(token)
        return Signal.NONE if tag is None else self.feed_tag(tag, offset)

    def feed_tag(self, tag: Tag, offset: int) -> Signal:
        """:meth:`feed` for a token already known to be a tag."""
        state = self._state
        if state is _State.BLOCK and tag is Tag.GOAL:
            self._state, self.goal_start, self.outlines = _State.GOAL, offset, []
        elif state is _State.GOAL and tag is Tag.OUTLINE:
            self._state, self._outline = _State.OUTLINE, offset
        elif state is _State.OUTLINE and tag is Tag.END_OUTLINE:
            self._state = _State.GOAL
            self.outlines.append((self._outline, offset + 1))
        elif state is _State.GOAL and tag is Tag.END_GOAL:
            return self._end_goal(offset)
        else:
            if state not in (_State.TEXT, _State.FORKED):
                self._note(
                    "broken_goal", offset, f"{self._name(tag)} breaks off the block's opening"
                )
            return self._in_text(tag, offset)
        return Signal.NONE

    def resume(self) -> None:
        """The forked block has been joined: what follows is text again."""
        self._state = _State.TEXT

    def _end_goal(self, offset: int) -> Signal:
        n, limits = len(self.outlines), self.limits
        if n < 2:
            reason = f"a goal with {n} outline(s) does not fork"
            code = "single_outline" if n else "no_outline"
        elif limits.max_branches is not None and n > limits.max_branches:
            code, reason = "too_many_branches", f"{n} outlines, limit {limits.max_branches}"
        elif limits.max_depth is not None and self.depth + 1 > limits.max_depth:
            code, reason = "too_deep", f"depth {self.depth + 1}, limit {limits.max_depth}"
        else:
            self._state, self.goal_end = _State.FORKED, offset + 1
            return Signal.FORK
        self._state = _State.TEXT
        self._declined.append(False)
        self._note(code, offset, reason)
        return Signal.NONE

    def _in_text(self, tag: Tag, offset: int) -> Signal:
        self._state = _State.TEXT
        if tag is Tag.PARALLEL:
            self._state, self.block_start = _State.BLOCK, offset
            return Signal.NONE
        if tag is Tag.END_THINK:
            return Signal.END_THINK
        if self._declined and self._in_declined(tag):
            return Signal.NONE
        if tag is Tag.END_PATH and self.depth:
            return Signal.END_PATH
        if tag not in (Tag.THINK, Tag.END_CONCLUSION, Tag.END_PARALLEL):
            self._note("stray_tag", offset, f"{self._name(tag)} stands here as ordinary text")
        return Signal.NONE

    def _in_declined(self, tag: Tag) -> bool:
        """Whether ``tag`` belongs to a declined block that is written as text."""
        declined = self._declined
        if tag is Tag.END_PATH:
            while declined:
                if declined[-1]:
                    declined[-1] = False
                    return True
                declined.pop()  # its paths never came, or are all written
            return False
        if declined[-1]:
            return False  # inside one of its paths
        if tag is Tag.PATH:
            declined[-1] = True
            return True
        if tag in (Tag.CONCLUSION, Tag.END_PARALLEL):
            declined.pop()  # no more paths
        return False

    def _name(self, tag: Tag) -> str:
        return self.dialect.spec[tag]

    def _note(self, code: str, offset: int, message: str) -> None:
        self.issues.append(Issue(code, offset, message))
