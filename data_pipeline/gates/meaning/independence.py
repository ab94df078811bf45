"""The independence gate: no path speaks of a sibling, or needs one to be understood.

Lexical rules, chosen to be wrong seldom rather than to find everything. What they cannot see, an
LLM that judges (:class:`Judge`) or a likelihood test (:mod:`.likelihood`) may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from ...finding import Finding
from ..options import GateOptions
from ..text.located import Located, LocatedBlock, Part, Span
from .normal import normal

_REWRITE = "rewrite the path so that it can be read without the others"

#: How a path opens that goes on from another one. Ordinals and the like need a comma or a pronoun,
#: lest "First derivative" or "Second term" be taken for one.
_TRANSITION = re.compile(
    r"""(?ix)
    (?: (?:first|firstly|second|secondly|third|thirdly|fourth|fourthly|next|then|finally|lastly
          |now|also|again|still|otherwise|instead|meanwhile|or|and|but|so|besides|however)
        (?:,|\s+(?:let|we|i|i'll|let's|it|they|he|she|compute|calculate|consider|check|find
               |determine|try|look|for)\b)
      | (?:alternatively|similarly|likewise|conversely|moreover|furthermore|additionally
          |in\s+addition|in\s+contrast|by\s+contrast|on\s+the\s+(?:other|one)\s+hand
          |in\s+the\s+same\s+way|in\s+comparison|after\s+(?:that|this)|following\s+this
          |continuing|moving\s+on|as\s+before|once\s+again|having\s+(?:done|found|computed))\b
      | another\s+(?:way|approach|method|idea|possibility|option|case|thought|angle)\b
      | wait\b
    )"""
)

_THING = r"(?:path|branch|case|approach|method|option|scenario|possibility|outline|alternative)"

_BACK = re.compile(
    rf"""(?ix)\b(?:
      the\s+(?:previous|preceding|prior|last|other|earlier|foregoing)\s+{_THING}s?
      | (?:as|from|in|by|with|using|than|like)\s+(?:in\s+)?the\s+(?:first|second|third|fourth)
        \s+(?:path|branch|approach|method|option)
      | (?:(?:as|like|unlike|than|from|in|by|with|using|see|compared\s+(?:to|with))\s+)
        (?:in\s+)?(?:the\s+)?(?:path|branch|step|outline)\s+(?P<number>\d+(?:\.\d+)*)
      | (?:path|branch|outline)\s+(?P<name>\d+(?:\.\d+)*)\b
    )\b"""
)

_SYMBOL = r"[A-Za-zα-ωΑ-Ω](?:_\{?\w+\}?|')?"
_DEFINED = re.compile(
    rf"""(?x)\b(?:[Ll]et|[Dd]efine|[Dd]enote|[Ss]et)\s+(?:us\s+)?(?:\\\(|\$)?\s*
    (?P<symbol>{_SYMBOL})(?:\([^)]{{1,12}}\))?\s*(?:\\\)|\$)?\s*(?:=|:=|be\b|denote\b|as\b|to\s+be\b)"""
)
_WORDS = {"a", "A", "I", "e", "i", "s", "S"}


class Judge(Protocol):
    """An LLM, or a person, who says what of a path needs its siblings."""

    def __call__(self, *, trunk: str, path: str, siblings: Sequence[str]) -> str | None:
        """What of ``path`` cannot be understood from ``trunk`` alone; None if nothing."""


def check_independence(located: Located, options: GateOptions) -> list[Finding]:
    """What in a path points at a sibling, by its words alone."""
    if not options.independence:
        return []
    findings: list[Finding] = []
    _walk(located, located.blocks, frozenset(), findings)
    return findings


def _walk(
    located: Located,
    blocks: Sequence[LocatedBlock],
    outer: frozenset[str],
    findings: list[Finding],
) -> None:
    """Check ``blocks``; ``outer`` are the labels of the siblings of the paths around them."""
    for block in blocks:
        findings.extend(_identical(located, block))
        for index, path in enumerate(block.paths):
            siblings = block.paths[:index] + block.paths[index + 1 :]
            others = outer | {sibling.label for sibling in siblings if sibling.label}
            findings.extend(_opening(located, path))
            findings.extend(_back_references(located, path, others, first=index == 0))
            findings.extend(_symbols(located, block, path, siblings))
            _walk(located, path.blocks, others, findings)


def judge_independence(located: Located, judge: Judge) -> list[Finding]:
    """What ``judge`` finds, path by path."""
    findings = []
    for block in located.walk():
        for index, path in enumerate(block.paths):
            siblings = block.paths[:index] + block.paths[index + 1 :]
            verdict = judge(
                trunk=located.text[: block.paths[0].span[0]],
                path=located.at(path.inner),
                siblings=[located.at(sibling.inner) for sibling in siblings],
            )
            if verdict:
                findings.append(_finding("judged-dependent", verdict, path.inner))
    return findings


def _finding(code: str, message: str, span: Span) -> Finding:
    return Finding(code, message, span, gate="independence")


def _identical(located: Located, block: LocatedBlock) -> Iterator[Finding]:
    seen: dict[str, Part] = {}
    for path in block.paths:
        text = normal(located.text, [path.inner], space="").text
        if text and text in seen:
            yield _finding(
                "identical-paths",
                f"path {path.label} says what path {seen[text].label} says; keep one of them",
                path.inner,
            )
        seen.setdefault(text, path)


def _opening(located: Located, path: Part) -> Iterator[Finding]:
    start, end = path.inner
    body = located.text[start:end]
    start += len(body) - len(body.lstrip())
    match = _TRANSITION.match(located.text, start, end)
    if match is not None:
        yield _finding(
            "transitional-opening",
            f"path {path.label} opens with {match.group()!r}, as if it went on from another; "
            "begin with what it does",
            match.span(),
        )


def _back_references(
    located: Located, path: Part, others: frozenset[str], *, first: bool
) -> Iterator[Finding]:
    for span in path.own():
        for match in _BACK.finditer(located.text, *span):
            number = match.group("number") or match.group("name")
            if number is None:
                if first:  # nothing but the trunk is before the first path
                    continue
            elif number.rstrip(".") not in others or _own_step(
                located, path, match.group(), number
            ):
                continue
            yield _finding(
                "back-reference",
                f"path {path.label} speaks of another path: {match.group()!r}; {_REWRITE}",
                match.span(),
            )


def _own_step(located: Located, path: Part, reference: str, number: str) -> bool:
    """Whether "step 2" is a step that the path itself counts."""
    if "step" not in reference.lower():
        return False
    counted = re.compile(rf"(?im)(?:^|[.:]\s+)[*_#\s]*step\s+{re.escape(number)}\b")
    return counted.search(located.at(path.inner)) is not None


def _symbols(
    located: Located, block: LocatedBlock, path: Part, siblings: Sequence[Part]
) -> Iterator[Finding]:
    """Symbols a sibling defines, which the path uses and nothing it can see names."""
    own = located.at(path.inner)
    seen = located.text[: block.paths[0].span[0]]
    for sibling in siblings:
        for match in _DEFINED.finditer(located.text, *sibling.inner):
            symbol = match.group("symbol")
            if symbol in _WORDS or _uses(seen, symbol):
                continue
            used = _uses(own, symbol)
            if used is None or _binds(own, symbol):
                continue
            start = path.inner[0] + used.start()
            yield _finding(
                "sibling-symbol",
                f"path {path.label} uses {symbol}, which only path {sibling.label} defines; say "
                "what it stands for",
                (start, start + len(symbol)),
            )


def _uses(text: str, symbol: str) -> re.Match[str] | None:
    return re.search(rf"(?<![\w\\]){re.escape(symbol)}(?![\w'_])", text)


def _binds(text: str, symbol: str) -> bool:
    """Whether ``text`` itself gives ``symbol`` a meaning: ``k = 3``, "for k", "integer k", ∑_k."""
    name = re.escape(symbol)
    return (
        re.search(
            rf"(?<![\w\\]){name}(?:\([^)]{{1,12}}\))?\s*(?:\\\)|\$)?"
            rf"\s*(?:=|:=|≡|∈|<|>|≤|≥|\\in\b|\\le|\\ge)"
            rf"|\b(?:for|all|any|each|some|integers?|numbers?|variables?|where|call|side|angle|point"
            rf"|line|value|say|let|denote|define)\s+(?:\\\(|\$)?\s*{name}(?![\w'_])"
            rf"|_\{{?\s*{name}\s*[=}}]",
            text,
        )
        is not None
    )
