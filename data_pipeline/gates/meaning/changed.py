"""Sentences that match, of which one says otherwise than the other.

What matches is looked at in the smallest pieces that still match, clauses: there a denial has
nothing to hide behind, and a number or an operation that stands in another's place is the only one
that could have stood there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ...finding import Finding
from .aligning import Group, align, all_of, likeness, short
from .statements import Statement
from .words import ALTERNATIVES, JOINING

#: Likeness from which it is told which of two pieces denies what the other says.
SURE = 0.5
#: The same of a conclusion, which says in fewer words what paths say; it is only doubted.
SUMMED_UP = 0.42
#: That from which a number of one is held to stand in the place of another's.
CLOSE = 0.6
#: That from which both are taken to say the same, but for a negation.
SAME = 0.85
#: Numbers that come and go with the wording ("positive", "1 way").
WEAK = frozenset("01")
#: What gives a number its sign, or both.
_SIGNED_BY_WORDS = re.compile(r"(?i)\bminus\b|\bless\b|\bnegative\b|±|\\pm\b")
#: A piece, and what of the other text it matches: old, new.
Pair = tuple[Group, Group]


def changed(
    was: Group, now: Group, groups: Sequence[Pair], sure: float = SURE
) -> Iterator[Finding]:
    """What matching groups of two texts say differently.

    Codes: ``changed-negation``, ``contrary``, ``changed-name``, ``changed-number``,
    ``changed-operation``.
    """
    for old, new in groups:
        whole = likeness(old, new)
        if whole < sure:
            continue
        if whole >= SURE:
            yield from _replaced(was, now, old, new)
        moved = _nots(old) == _nots(new)  # from clause to clause, and none came or went
        asks = any(one.asks for one in (*old, *new))  # the answer may be in the next
        pieces = _pieces(old, new)
        found: list[Finding] = []
        for one, other in [(old, new), *(pieces or ())]:
            alike = likeness(one, other)
            if alike >= sure and not asks:
                found += _contrary(one, other)
                found += _denied(one, other, alike, named=moved and one is not old)
            if alike >= CLOSE and (pieces is None or one is not old):
                found += _in_place(one, other)
        yield from {one.code: one for one in reversed(found)}.values()


def _pieces(old: Group, new: Group) -> list[Pair] | None:
    """The clauses of two groups, matched; None where no sentence has more than one."""
    theirs, ours = ([piece for one in some for piece in one.clauses] for some in (old, new))
    if len(theirs) == len(old) and len(ours) == len(new):
        return None
    return align(theirs, ours)[2]


def _denied(old: Group, new: Group, alike: float, *, named: bool) -> Iterator[Finding]:
    """One denies what the other says, without any other negation; or both say nearly the same
    (``alike``), and one of them with a negation more, unless it must be ``named`` what is denied.
    """
    for some, others in ((new, old), (old, new)):
        if any(one.negative for one in others):
            continue
        denied = all_of(some, "denied") & all_of(others, "tokens")
        bare = alike >= CLOSE and any(one.nots and not one.denied for one in some)
        if denied or (bare and not named):
            yield _finding("changed-negation", old, new)
            return
    if named:
        return
    before, after = _nots(old), _nots(new)
    hints = [sum(one.hints for one in some) for some in (old, new)]
    if alike >= SAME and abs(after - before) == 1 and hints[0] == hints[1]:
        yield _finding("changed-negation", old, new)


def _nots(some: Group) -> int:
    return sum(one.nots for one in some)


def _contrary(old: Group, new: Group) -> Iterator[Finding]:
    """Each has a word in whose place the other has another, and both deny as much."""
    if _nots(old) != _nots(new):
        return
    ours, theirs = ({word for one in some for word in one.said} for some in (new, old))
    for sides in ALTERNATIVES:
        here = [side for side in sides if side & ours]
        there = [side for side in sides if side & theirs]
        if len(here) != 1 or len(there) != 1 or here == there:
            continue
        if not _turned(old, there[0], new, here[0]):
            yield _finding("contrary", old, new)
            return


def _turned(old: Group, there: frozenset[str], new: Group, here: frozenset[str]) -> bool:
    """Whether what stood before the one word stands behind the other: "the boat arrives before the
    hat", "the hat arrives after the boat"."""
    first, last = _around(old, there)
    ours_first, ours_last = _around(new, here)
    return bool(first & ours_last and last & ours_first)


def _around(some: Group, words: frozenset[str]) -> tuple[set[str], set[str]]:
    """What is said before and behind the first of ``words`` in its sentence."""
    for one in some:
        at = next((i for i, word in enumerate(one.said) if word in words), None)
        if at is not None:
            return set(one.said[:at]) - JOINING, set(one.said[at + 1 :]) - JOINING
    return set(), set()


def _replaced(was: Group, now: Group, old: Group, new: Group) -> Iterator[Finding]:
    """A number or a name stands for another of the source, which neither sentence beside has."""
    for kind in ("names", "functions"):
        named, others = all_of(new, kind), all_of(old, kind)
        if named - others and others - named:
            yield _changed("changed-name", named - others, others - named, new)
    theirs, ours = all_of(_beside(was, old), "counts"), all_of(_beside(now, new), "counts")
    added = all_of(new, "counts") - theirs - WEAK
    gone = all_of(old, "counts") - ours - WEAK
    if added and gone:
        yield _changed("changed-number", added, gone, new)


def _in_place(old: Group, new: Group) -> Iterator[Finding]:
    """As many numbers on both sides, of which one differs; as many operations between two things,
    of which one is another."""
    theirs, ours = (Counter(n for one in some for n in one.numerals) for some in (old, new))
    added, gone = ours - theirs, theirs - ours
    worded = added.keys() & all_of(old, "spoken") or gone.keys() & all_of(new, "spoken")
    signed = any(_SIGNED_BY_WORDS.search(one.text) for one in (*old, *new))
    same = {n.lstrip("-") for n in added} == {n.lstrip("-") for n in gone}
    if added.total() == gone.total() == 1 and not worded and not (signed and same):
        yield _changed("changed-number", added, gone, new)
    before, after = (_operations(some) for some in (old, new))
    for ends in before.keys() & after.keys():
        if before[ends] != after[ends] and before[ends].total() == after[ends].total():
            yield _changed("changed-operation", after[ends], before[ends], new)
            return


def _operations(some: Group) -> dict[tuple[str, str], Counter[str]]:
    """What is done between two things, by these; exponents by what they raise."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for one in some:
        for step in one.all_steps:
            parts = re.fullmatch(r"([^-+*/^]*)([-+*/^]+)(.+)", step)
            if parts is None:
                continue
            left, sign, right = parts.groups()
            key, done = ((left, "^"), right) if sign == "^" else ((left, right), sign)
            found.setdefault(key, Counter())[done] += 1
    return found


def _beside(whole: Sequence[Statement], some: Group) -> Group:
    """``some`` of ``whole`` with the statement before and the one after."""
    first, last = (
        next(i for i, one in enumerate(whole) if one is at) for at in (some[0], some[-1])
    )
    return whole[max(first - 1, 0) : last + 2]


def _changed(code: str, added: Any, gone: Any, new: Group) -> Finding:
    message = f"{', '.join(sorted(added))} for {', '.join(sorted(gone))}"
    return Finding(code, f"{message}: {short(new[0].text)}", new[0].span, gate="faithful")


def _finding(code: str, old: Group, new: Group) -> Finding:
    message = f"the source says {short(old[0].text)}, here: {short(new[0].text)}"
    return Finding(code, message, new[0].span, gate="faithful")
