"""Statements of two texts matched in order, by what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...source.sentences import Span
from .statements import Statement

Group = Sequence[Statement]
#: Share of what two statements say, together, from which they count as the same.
ALIKE = 0.3
#: Words that a number or a step of a formula is worth.
_HEAVY = 2.0
#: How many sentences of each text may say the same together, or nothing.
_WIDTHS = ((1, 0), (0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (1, 4), (4, 1))
#: How far a sentence may stand from where it would be if both texts went on evenly.
_BAND = 20


def align(
    old: Group, new: Group
) -> tuple[list[Statement], list[Statement], list[tuple[Group, Group]]]:
    """Match two lists in order, so that as much as can be is said by both.

    Returns:
        What of ``old`` and what of ``new`` nothing matches, and the groups that match.
    """
    old, new = ([one for one in some if weight_of(one)] for some in (old, new))
    slope = len(new) / max(len(old), 1)
    band = max(_BAND, 2 * slope)
    ours, theirs = _windows(old), _windows(new)
    best: dict[Span, float] = {(0, 0): 0.0}
    moves: dict[Span, Span] = {}
    for i in range(len(old) + 1):
        for j in range(len(new) + 1):
            if abs(j - i * slope) > band:
                continue
            options = [
                (best[i - a, j - b] + (_gain(ours[i, a], theirs[j, b]) if a and b else 0), (a, b))
                for a, b in _WIDTHS
                if (i - a, j - b) in best
            ]
            if options:
                best[i, j], moves[i, j] = max(options)
    lost, made_up, groups = [], [], []
    i, j = len(old), len(new)
    while i or j:
        a, b = moves[i, j]
        if not b and _says(old[i - 1]):
            lost.append(old[i - 1])
        if not a and _says(new[j - 1]):
            made_up.append(new[j - 1])
        if a and b:
            groups.append((old[i - a : i], new[j - b : j]))
        i, j = i - a, j - b
    return lost[::-1], made_up[::-1], groups[::-1]


def _says(one: Statement) -> bool:
    """Whether a sentence states enough to be matched: more than a number alone."""
    return weight_of(one) >= 2 and len(one.tokens) > 1


@dataclass(frozen=True)
class _Said:
    """What some sentences say together: numbers and steps, words, and their weight."""

    heavy: frozenset[str]
    words: frozenset[str]
    weight: float

    @classmethod
    def by(cls, some: Group) -> _Said:
        if len(some) == 1:
            heavy, words = some[0].heavy, some[0].words
        else:
            heavy, words = all_of(some, "heavy"), all_of(some, "words")
        return cls(heavy, words, _HEAVY * len(heavy) + len(words))

    def with_(self, other: _Said) -> float:
        """The weight of what both say."""
        return _HEAVY * len(self.heavy & other.heavy) + len(self.words & other.words)


def _windows(some: Group) -> dict[Span, _Said]:
    """What up to four sentences say together, by where they end and how many they are."""
    return {
        (end, width): _Said.by(some[end - width : end])
        for end in range(len(some) + 1)
        for width in (1, 2, 3, 4)
        if width <= end
    }


def _gain(ours: _Said, theirs: _Said) -> float:
    """Over 0 where both share more than :data:`ALIKE` of what they say."""
    return 2 * ours.with_(theirs) - ALIKE * (ours.weight + theirs.weight)


def likeness(some: Group, others: Group) -> float:
    ours, theirs = _Said.by(some), _Said.by(others)
    return 2 * ours.with_(theirs) / max(ours.weight + theirs.weight, 1.0)


def weight_of(one: Statement) -> float:
    return _Said.by([one]).weight


def all_of(some: Group, name: str) -> frozenset[Any]:
    """What the property ``name`` of all of them comes to together."""
    return frozenset().union(*[getattr(one, name) for one in some])


def short(text: str) -> str:
    """``text`` on one line, quoted, of 100 characters at most."""
    text = " ".join(text.split())
    return repr(text if len(text) <= 100 else f"{text[:97]}…")
