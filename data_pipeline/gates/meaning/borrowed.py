"""What a path takes from a sibling without a word: a value it computed, a name it gave.

The question has to be known: what stands there, in the text before the block, or in its outlines
belongs to every path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ...finding import Finding
from ..text.located import Located, LocatedBlock, Part
from .statements import Statement, statements

#: Behind one of these, in a path, a name is being introduced.
_GIVES_A_NAME = re.compile(
    r"""(?ix)(?:\b(?:let|call|denote|set|put|where|for|with|each|any|every|some|all|point|points
    |foot|midpoint|center|centre|intersection|integers?|numbers?|primes?|variables?|say|suppose
    |assume|choose|pick|take|write|name|define|given|if|when|side|sides|angle|line|vertex|by
    |at|meets?|as|be|substitut\w*|term|case|using|over|choices?\ of|function|polynomial)
    |[,({∈]|\band)\s*(?:\w+\s*[,=]\s*)*$"""
)
#: Before one of these, too.
_GIVEN_A_MEANING = re.compile(
    r"(?:\([^)]{1,12}\))?\s*(?:=|:=|∈)(?!=)|\s+(?:be|denote|is the|are the)\b"
)
#: Characters before a name in which its introduction is looked for.
_NEAR = 120
_NAME = re.compile(r"(?<![A-Za-z\\'])(?:[A-Za-zα-ω](?:_\w+)?|[A-Z]{2,4})(?![A-Za-z'])")
#: Letters that mean something by themselves: constants, units, words.
_COMMON = frozenset(
    (
        *("a", "A", "I", "e", "i", "π", "C", "P", "E", "O", "II", "III", "IV"),
        *("s", "m", "g", "h", "t", "kg", "km", "cm", "mm", "ml", "mol"),
        *("L", "N", "J", "W", "V", "K", "F", "Hz"),
    )
)


def check_borrowed(
    located: Located, question: str, blocks: Iterable[LocatedBlock] | None = None
) -> list[Finding]:
    """Values and names that a path has from a sibling alone.

    Args:
        blocks: those of ``located`` to look at, without the blocks within; None looks at all.
    """
    findings: list[Finding] = []
    for block in located.walk() if blocks is None else blocks:
        before = located.text[: block.paths[0].span[0]] if block.paths else ""
        seen = _Read(f"{question}\n{before}")
        paths = [(path, _Read(located.at(path.inner))) for path in block.paths]
        for path, own in paths:
            siblings = [one for one in paths if one[0] is not path]
            findings += _values(path, own, siblings, seen)
            findings += _names(located, path, own, siblings, seen)
    return findings


@dataclass(frozen=True)
class _Read:
    """A text, read once: its sentences, and all of it in one spelling."""

    text: str

    @cached_property
    def statements(self) -> Sequence[Statement]:
        return statements(self.text)

    @cached_property
    def plain(self) -> str:
        return " ".join(one.plain for one in self.statements)

    @cached_property
    def counts(self) -> frozenset[str]:
        return frozenset().union(*(one.counts for one in self.statements))

    @cached_property
    def ends(self) -> frozenset[str]:
        """Numbers that it comes to."""
        return frozenset().union(*(one.results | _last(one) for one in self.statements))

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(_named(one.plain) for one in self.statements))


_Siblings = Sequence[tuple[Part, _Read]]


def _values(path: Part, own: _Read, siblings: _Siblings, seen: _Read) -> Iterator[Finding]:
    """Numbers that are used before the path has come to them, and that a sibling comes to."""
    known = set(seen.counts)
    theirs = {number: sibling for sibling, read in siblings for number in read.ends}
    for one in own.statements:
        for number in sorted(one.numbers - known - one.results - _last(one)):
            if len(number) > 1 and number in theirs and not _round(number):
                start = path.inner[0] + one.span[0]
                yield _finding(
                    "sibling-value",
                    f"path {path.label} uses {number}, which only path {theirs[number].label} "
                    "comes to; say where it is from, or merge the paths",
                    (start, path.inner[0] + one.span[1]),
                )
        known |= one.counts


def _last(one: Statement) -> frozenset[str]:
    """Numbers that are the right side of a relation."""
    return frozenset(
        number for _, _, side in one.relations for number in re.findall(r"\d+(?:\.\d+)?", side)
    )


def _round(number: str) -> bool:
    """10, 100, 360, …: numbers that anyone may bring along."""
    return number.rstrip("0") == "1" or number in ("12", "24", "60", "90", "180", "360")


def _names(
    located: Located, path: Part, own: _Read, siblings: _Siblings, seen: _Read
) -> Iterator[Finding]:
    """Names that the path uses and gives no meaning, and that a sibling introduces."""
    shared = set(seen.names)
    told: set[str] = set()
    for match in _NAME.finditer(own.plain):
        name = match.group()
        letters = set(name) if name.isupper() and len(name) > 1 else {name}
        if letters <= shared or name in shared or letters & told or name in _COMMON:
            continue
        told |= letters
        if _introduced(own.plain, match):
            shared |= letters | {name}
            continue
        for sibling, read in siblings:
            names = _NAME.finditer(read.plain)
            first = next((x for x in names if x.group() in letters - shared), None)
            if first is not None and _introduced(read.plain, first):
                at = located.text.find(name[0], *path.inner)
                span = (at, at + len(name)) if at >= 0 else path.inner
                yield _finding(
                    "sibling-name",
                    f"path {path.label} speaks of {name}, which only path {sibling.label} "
                    "introduces; say what it stands for",
                    span,
                )
                break


@lru_cache(maxsize=1 << 13)
def _named(sentence: str) -> frozenset[str]:
    """The names in a sentence, which stands before several blocks."""
    found = _NAME.findall(sentence)
    return frozenset(
        letter for name in found for letter in (name, *(name if name.isupper() else ()))
    )


def _introduced(text: str, match: re.Match[str]) -> bool:
    if _GIVEN_A_MEANING.match(text, match.end()):
        return True
    before = text[max(match.start() - _NEAR, 0) : match.start()]
    if match.start() > _NEAR:
        before = before[before.find(" ") + 1 :]  # no part of a word
    return _GIVES_A_NAME.search(before) is not None


def _finding(code: str, message: str, span: tuple[int, int]) -> Finding:
    return Finding(code, message, span, gate="independence")
