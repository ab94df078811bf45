"""Which sentences of the chain stand under which step, as the LLM's lines say.

A sentence has a number and belongs to one step. Between branches of one group it may be split, at
places the LLM shows by copying it, or repeated, where each branch cannot do without it; both are
marked, and counted among the notes of the item.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from ..finding import Finding
from ..outline import Group, Outline, Step
from ..source.sentences import Span, split_sentences

_LINE = re.compile(r"[ \t]*(?:[-*][ \t]+)?[*_]*(S\d+(?:\.\d+)*)[*_]*[ \t]*:[*_]*[ \t]*(.*)")
_SPLIT = re.compile(
    r"[ \t]*(?:[-*][ \t]+)?[*_]*Split[ \t]+\[?(\d{1,9})\]?[*_]*[ \t]*:[*_]*[ \t]*(.*)"
)
_CUT = re.compile(r"<cut[ \t]*/?>", re.IGNORECASE)
_RANGE = re.compile(
    r"(\+?)[ \t]*\[?(\d+[a-z]?)\]?(?:[ \t]*(?:-|–|—|\.\.|to)[ \t]*\[?(\d+[a-z]?)\]?)?$"
)
_NONE = frozenset(["", "-", "–", "—", "none", "(none)"])
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

#: One sentence of so many may stand in a second place.
REPEATS = 10


@dataclass(frozen=True)
class Unit:
    """A sentence, or a part of one that is split.

    Attributes:
        name: its number, from 1, and the letter of a part.
        span: where it stands in the chain.
    """

    name: str
    span: Span

    @property
    def is_part(self) -> bool:
        return self.name[-1].isalpha()


@dataclass
class Placement:
    """What was read.

    Attributes:
        units: what is placed, in the order of the chain.
        under: indices of units by label, as given.
        repeated: those that were marked to stand in several places.
        findings: what is wrong; spans count in the reply or, where so said, in the chain.
    """

    units: list[Unit]
    under: dict[str, list[int]] = field(default_factory=dict)
    repeated: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def note(self, code: str, message: str, span: Span, *, in_source: bool = False) -> None:
        where = "source" if in_source else "text"
        self.findings.append(Finding(code, message, span, "coverage", where))

    def is_marked(self, unit: int) -> bool:
        """Whether it is repeated, or a part."""
        return unit in self.repeated or self.units[unit].is_part

    def labels(self) -> dict[int, list[str]]:
        """The steps that each placed unit stands under, in their order; a step twice where it names
        a unit twice."""
        found: dict[int, list[str]] = {}
        for label, own in self.under.items():
            for unit in own:
                found.setdefault(unit, []).append(label)
        return found

    def notes(self) -> Iterator[Finding]:
        """What of an item with this placement should be known: sentences split and repeated."""
        labels = self.labels()
        for index, unit in enumerate(self.units):
            if self.is_marked(index):
                code = "split-sentence" if unit.is_part else "repeated-sentence"
                where = " and ".join(labels[index])
                yield _note(code, f"{unit.name} stands under {where}", unit.span)


def _note(code: str, message: str, span: Span) -> Finding:
    return Finding(code, f"sentence {message}", span, "coverage", "source")


def read_placement(text: str, outline: Outline, source: str) -> Placement:
    """Read ``S1: 1-4, 7`` lines, with ``Split 7: …`` lines before or after them."""
    spans = split_sentences(source)
    lines = list(_lines(text))
    placement = Placement([])
    cuts = dict(_cuts(lines, source, spans, placement))
    placement.units = list(_units(spans, cuts))
    reach = _reach(placement.units)
    labels = [step.label for step in outline.steps()]
    for span, line in lines:
        if _SPLIT.match(line):
            continue
        match = _LINE.match(line)
        if match is None:
            if line.strip() and not line.lstrip().startswith("<"):
                placement.note("unreadable-line", "write `S1: 1-4` and nothing else", span)
            continue
        label, numbers = match.group(1), match.group(2)
        if label not in labels:
            placement.note("added-step", f"{label} is not in the outline", span)
        elif label in placement.under:
            message = f"{label} stands here again; one line per step"
            placement.note("repeated-step", message, span)
        else:
            placement.under[label] = list(_numbers(numbers, reach, len(spans), span, placement))
    for label in labels:
        if label not in placement.under:
            message = f"{label} has no line; write `{label}: -` if it is empty"
            placement.note("missing-step", message, (0, 0))
    under = placement.under
    placement.under = {label: under[label] for label in labels if label in under}
    _each_once(placement, outline)
    _in_order(placement)
    return placement


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers, both ends included."""
    if not numbers:
        return
    start = numbers[0]
    for one, two in pairwise([*numbers, None]):
        if two is None or two != one + 1:
            yield start, one
            start = two if two is not None else start


def _lines(text: str) -> Iterator[tuple[Span, str]]:
    at = 0
    for line in text.splitlines(keepends=True):
        yield (at, at + len(line.rstrip())), line.rstrip()
        at += len(line)


def _cuts(
    lines: Sequence[tuple[Span, str]], source: str, spans: Sequence[Span], placement: Placement
) -> Iterator[tuple[int, list[int]]]:
    """Where sentences are cut, by their number from 0: places in ``source``."""
    for span, line in lines:
        match = _SPLIT.match(line)
        if match is None:
            continue
        number, parts = int(match.group(1)), _CUT.split(match.group(2))
        if not 1 <= number <= len(spans):
            message = f"{number}: the chain has sentences 1 to {len(spans)}"
            placement.note("unknown-sentence", message, span)
            continue
        start, end = spans[number - 1]
        solid = [at for at in range(start, end) if not source[at].isspace()]
        copied = ["".join(part.split()) for part in parts]
        if "".join(copied) != "".join(source[at] for at in solid):
            message = f"copy sentence {number} as it stands, with <cut> where it is cut"
            placement.note("changed-sentence", message, span)
        elif not 2 <= len(parts) <= len(_LETTERS) or not all(copied):
            placement.note("empty-part", f"cut sentence {number} into two or more parts", span)
        else:
            at, cuts = 0, []
            for part in copied[:-1]:
                at += len(part)
                cuts.append(solid[at])
            yield number - 1, cuts


def _units(spans: Sequence[Span], cuts: Mapping[int, list[int]]) -> Iterator[Unit]:
    for index, (start, end) in enumerate(spans):
        name = str(index + 1)
        if index not in cuts:
            yield Unit(name, (start, end))
            continue
        edges = [start, *cuts[index], end]
        for letter, span in zip(_LETTERS, pairwise(edges), strict=False):
            yield Unit(name + letter, span)


def _reach(units: Sequence[Unit]) -> dict[str, tuple[int, int]]:
    """First and last unit of every name that a line may give; ``6`` is all parts of sentence 6."""
    reach: dict[str, tuple[int, int]] = {}
    for index, unit in enumerate(units):
        reach[unit.name] = (index, index)
        whole = unit.name.rstrip(_LETTERS)
        reach[whole] = (reach.get(whole, (index, index))[0], index)
    return reach


def _numbers(
    text: str, reach: Mapping[str, tuple[int, int]], count: int, span: Span, placement: Placement
) -> Iterator[int]:
    for part in text.split(","):
        part = part.strip()
        if part.lower() in _NONE:
            continue
        match = _RANGE.match(part)
        if match is None:
            placement.note("unreadable-line", f"{part!r} is no sentence number or range", span)
            continue
        plus, first = match.group(1), match.group(2)
        last = match.group(3) or first
        if first not in reach or last not in reach or reach[first][0] > reach[last][1]:
            message = f"{part}: the chain has sentences 1 to {count}"
            placement.note("unknown-sentence", message, span)
            continue
        named = range(reach[first][0], reach[last][1] + 1)
        placement.repeated.update(named if plus else ())
        yield from named


def _each_once(placement: Placement, outline: Outline) -> None:
    """Note what is placed nowhere, and what twice without being repeated as it may be."""
    places = dict(_places(outline.parts))
    units, placed, again = placement.units, placement.labels(), 0
    for index, unit in enumerate(units):
        labels = placed.get(index, [])
        again += max(len(labels) - 1, 0)
        if index not in placement.repeated:
            allowed = len(labels) <= 1
        else:
            allowed = len(labels) > 1 and all(
                _apart(places[one], places[two]) for one, two in combinations(labels, 2)
            )
        if labels and not allowed:
            where = " and ".join(labels)
            message = f"sentence {unit.name} is under {where}; keep one, or write +{unit.name} "
            message += "in several branches of one group that cannot do without it"
            placement.note("duplicated-sentence", message, unit.span, in_source=True)
    if again > max(len(units) // REPEATS, 1):
        message = f"{again} sentences of {len(units)} are repeated; at most one in {REPEATS} may be"
        placement.note("repeated-sentence", message, (0, 0))
    for start, end in runs([i for i in range(len(units)) if i not in placed]):
        one, two = units[start], units[end]
        named = f"sentence {one.name}" if start == end else f"sentences {one.name} to {two.name}"
        placement.note(
            "missing-sentence", f"{named} under no step", (one.span[0], two.span[1]), in_source=True
        )


def _in_order(placement: Placement) -> None:
    """Note what stands after a later sentence. What is split or repeated may."""
    units = placement.units
    order = [index for own in placement.under.values() for index in own]
    times = Counter(order)
    fixed = [index for index in order if times[index] == 1 and not units[index].is_part]
    for one, two in pairwise(fixed):
        if two < one:
            message = f"sentence {units[two].name} stands after sentence {units[one].name}; "
            message += "keep the order of the chain"
            placement.note("moved-sentence", message, units[two].span, in_source=True)


#: The groups that a step is in, outermost first: number of the group, number of the branch.
_Place = tuple[tuple[int, int], ...]


def _places(
    parts: Sequence[Step | Group], outer: _Place = (), seen: list[int] | None = None
) -> Iterator[tuple[str, _Place]]:
    seen = [] if seen is None else seen
    for part in parts:
        if isinstance(part, Step):
            yield part.label, outer
            yield from _places(part.parts, outer, seen)
            continue
        seen.append(1)
        group = len(seen)
        for branch, inner in enumerate(part.branches):
            yield from _places(inner, (*outer, (group, branch)), seen)


def _apart(one: _Place, two: _Place) -> bool:
    """Whether two steps are in different branches of one group."""
    return any(a[0] == b[0] and a[1] != b[1] for a, b in zip(one, two, strict=False))
