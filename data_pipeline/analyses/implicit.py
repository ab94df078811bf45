"""Implicit parallelism: where a sequential chain branches, as an LLM lists it.

Every branch is named by a quotation, which is looked up: an instance with one that the chain does
not hold is refused, and refusals are counted by their code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from ..finding import Finding
from ..gates.meaning.normal import Normal, normal
from ..recipe import Recipe
from ..record import Record, Rejection
from ..stages.asking import Question, Reading, ask
from ..stages.payload import payload
from ..teacher.call import Message, Sampling
from .asking import Steps, prompts
from .intervals import bootstrap_mean, wilson
from .rows import Row

VERSION = "1"
TASK = "analysis-implicit"
LABELS = ("collective", "selective")

Code = Literal["unknown-label", "one-branch", "quote-not-found", "same-place"]


@dataclass(frozen=True)
class Quote:
    """A quotation at characters ``[start, end)`` of the chain.

    Attributes:
        exact: False where white space or typographic signs differ.
        occurrences: how often the chain holds it.
    """

    text: str
    start: int
    end: int
    exact: bool
    occurrences: int


@dataclass(frozen=True)
class Instance:
    """One place where the chain branches; ``number`` is the LLM's list's."""

    number: int
    label: str
    branches: tuple[Quote, ...]

    @property
    def span(self) -> tuple[int, int]:
        """From the first branch's first word to the last one's quotation."""
        return min(one.start for one in self.branches), max(one.end for one in self.branches)


@dataclass(frozen=True)
class Refused:
    """An instance that was thrown away."""

    number: int
    code: Code
    message: str


@dataclass(frozen=True)
class Listed:
    """What is left of an LLM's list, and what is not."""

    instances: tuple[Instance, ...] = ()
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class _Entry:
    number: int
    label: str
    quotes: tuple[str, ...]


_INSTANCE = re.compile(r"[\s*_#>-]*Instance[ \t]+(\d+)[*_]*[ \t]*[:.)(-]+[ \t*_]*(\w*)", re.I)
_BRANCH = re.compile(r"[\s*_>-]*Branch(?:[ \t]+\d+)?[*_]*[ \t]*[:.)][*_]*[ \t]*(.*?)\s*$", re.I)
_NONE = re.compile(r"\W*none\W*", re.IGNORECASE)
_MARKS = (('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"), ("`", "`"), ("«", "»"))


def recipe(model: str, sampling: Sampling, attempts: int = 3) -> Recipe:
    """What :func:`list_instances` is told."""
    return Recipe(
        model=model,
        sampling=sampling,
        prompts=prompts(system="analysis-analyst", task=TASK),
        attempts=attempts,
    )


def list_instances(row: Row, told: Recipe) -> Steps[Listed | Rejection]:
    """Ask where the chain of ``row`` branches, until the answer can be read."""
    record = Record(row.id, row.question or "", row.text)
    task = told.prompts[TASK].fill(question=row.question or "(not given)", chain=row.text)
    messages = (Message("user", task),)

    def read(reply: str) -> Reading[Listed]:
        return read_list(payload(reply), row.text)

    return (yield from ask(record, told, Question(TASK, VERSION, TASK, messages), read))


def read_list(reply: str, chain: str) -> Reading[Listed]:
    """The instances of ``reply``, with every quotation found in ``chain``."""
    entries = _entries(reply)
    if not entries and not _NONE.fullmatch(reply):
        message = "give `Instance 1: collective` or `selective` with its `Branch:` lines, or None"
        return Reading(None, [Finding("unreadable-list", message)], reply)
    plain = normal(chain)
    made = [_instance(entry, chain, plain) for entry in entries]
    return Reading(
        Listed(
            tuple(one for one in made if isinstance(one, Instance)),
            tuple(one for one in made if isinstance(one, Refused)),
        )
    )


def _entries(reply: str) -> list[_Entry]:
    entries: list[_Entry] = []
    for line in reply.splitlines():
        if begun := _INSTANCE.match(line):
            entries.append(_Entry(int(begun.group(1)), begun.group(2).lower(), ()))
        elif (named := _BRANCH.match(line)) and entries:
            last = entries[-1]
            entries[-1] = _Entry(last.number, last.label, (*last.quotes, named.group(1)))
    return entries


def _instance(entry: _Entry, chain: str, plain: Normal) -> Instance | Refused:
    if entry.label not in LABELS:
        message = f"{entry.label!r} is neither collective nor selective"
        return Refused(entry.number, "unknown-label", message)
    if len(entry.quotes) < 2:
        return Refused(entry.number, "one-branch", f"{len(entry.quotes)} branches; it takes two")
    found: list[Quote] = []
    for quote in entry.quotes:
        after = found[-1].end if found else 0
        place = find_quote(quote, chain, plain, after)
        if place is None:
            return Refused(entry.number, "quote-not-found", f"the chain does not hold {quote!r}")
        found.append(place)
    if len({one.start for one in found}) < len(found):
        return Refused(entry.number, "same-place", "two branches begin at one place")
    return Instance(entry.number, entry.label, tuple(found))


def find_quote(quote: str, chain: str, plain: Normal, after: int = 0) -> Quote | None:
    """Where ``chain`` holds ``quote``: the first place from ``after`` on, else the first of all.

    Letters, digits and signs must agree. White space and typographic quotes and dashes may
    differ, and marks of quotation around all of it do not count.

    Args:
        plain: :func:`~..gates.meaning.normal.normal` of the chain.
    """
    for wanted in _spellings(quote):
        at = chain.find(wanted, after)
        if at < 0:
            at = chain.find(wanted)
        if at >= 0:
            return Quote(wanted, at, at + len(wanted), True, chain.count(wanted))
    for wanted in _spellings(quote):
        same = normal(wanted).text
        if not same:
            continue
        places = [match.start() for match in re.finditer(re.escape(same), plain.text)]
        spans = [plain.span(at, at + len(same)) for at in places]
        if spans:
            start, end = next((span for span in spans if span[0] >= after), spans[0])
            return Quote(chain[start:end], start, end, False, len(spans))
    return None


def _spellings(quote: str) -> list[str]:
    """The quotation as it is, and without marks around it or dots that say it goes on."""
    quote = quote.strip()
    found = [quote]
    for opening, closing in _MARKS:
        if len(quote) > 1 and quote.startswith(opening) and quote.endswith(closing):
            found.append(quote[1:-1].strip())
    found += [re.sub(r"\s*(?:\.\.\.|…)$", "", one) for one in found]
    return [one for one in dict.fromkeys(found) if one]


def summarise(
    found: Sequence[Listed | Rejection], *, failed: int = 0, bad_rows: int = 0, seed: int = 0
) -> dict[str, Any]:
    """What many lists come to, as one JSON object. Traces without a readable list are counted by
    code and are in no other figure."""
    lists = [one for one in found if isinstance(one, Listed)]
    rejected = Counter(one.code for one in found if isinstance(one, Rejection))
    instances = [instance for one in lists for instance in one.instances]
    refused = Counter(one.code for listed in lists for one in listed.refused)
    row: dict[str, Any] = {
        "traces": len(lists),
        "unreadable_replies": dict(rejected),
        "endpoint_failed": failed,
        "bad_rows": bad_rows,
        "instances": len(instances),
        "refused": dict(refused),
        "labels": {label: sum(one.label == label for one in instances) for label in LABELS},
        "branches_of_instance": {
            str(n): count
            for n, count in sorted(Counter(len(one.branches) for one in instances).items())
        },
        "inexact_quotes": sum(not q.exact for one in instances for q in one.branches),
        "repeated_quotes": sum(q.occurrences > 1 for one in instances for q in one.branches),
    }
    if lists:
        per_trace = [float(sum(len(i.branches) for i in one.instances)) for one in lists]
        branching = sum(bool(one.instances) for one in lists)
        row |= {
            "branches_per_trace": {
                "mean": fmean(per_trace),
                "interval": bootstrap_mean(per_trace, seed),
                "median": median(per_trace),
            },
            "coverage": {
                "traces": branching,
                "share": branching / len(lists),
                "interval": wilson(branching, len(lists)),
            },
        }
    return row
