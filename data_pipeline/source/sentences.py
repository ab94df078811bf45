"""Sentences of a reasoning chain, with spans that tile the text.

A sentence ends at a line break, or at ``.``, ``!`` or ``?`` before white space. Mathematics, code,
decimals, abbreviations and list numbers stay whole, whatever they hold.
"""

from __future__ import annotations

import re

Span = tuple[int, int]

#: What no sentence ends in. Dollars pair within a line only, and not around a price list
#: (``$5 and $6``): the opening one stands before, the closing one after something that is no space.
#: What opens and is not closed before it opens again is none: a text of such would take minutes.
_WHOLE = re.compile(
    r"```.*?```"
    r"|`[^`\n]+`"
    r"|\$\$.+?\$\$"
    r"|\\\[(?:(?!\\\[).)+?\\\]"
    r"|\\\((?:(?!\\\().)+?\\\)"
    r"|\\begin\{(?P<env>[^{}\n]{1,40})\}(?:(?!\\begin\{(?P=env)\}).)*?\\end\{(?P=env)\}"
    r"|(?<![\\$])\$(?!\s)[^$\n]+?(?<![\s\\])\$(?!\d)",
    re.DOTALL,
)

_END = re.compile(r"[.!?…]+[\"'”’)\]}*_]*(?=[ \t])|\n")

_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“])(?:e\.g|i\.e|cf|vs|viz|approx|resp|w\.r\.t|w\.l\.o\.g|s\.t|a\.k\.a|al"
    r"|Mr|Mrs|Ms|Dr|Prof|St|Eq|Eqs|Fig|Figs|Thm|Def|Lem|Sec|No|Nos|Ref|Vol|Ch|pp)\.$",
)

#: ``1.`` or ``b.`` with which a line begins.
_ITEM = re.compile(r"(?:^|\n)[ \t]*(?:[-*+#>]+[ \t]+)?[*_]*(?:\d{1,3}(?:\.\d+)*|[A-Za-z])\.$")


#: Before a factorial's sign: a number, a bracket, a letter by itself.
_FACTORIAL = re.compile(r"[\d)]$|(?:^|[^A-Za-z])[A-Za-z]$")
#: Behind it, where the sentence goes on.
_AFTER_FACTORIAL = re.compile(r"[ \t]+(?:[a-z\d(=<>≤≥≡≠+*/^·×,;:-]|[-−–]|\\[a-z])")


def split_sentences(text: str) -> list[Span]:
    """Spans of the sentences of ``text``, in characters, each with the white space around it.

    Every span holds something visible; together they tile the text, so a text without anything
    visible has none.
    """
    whole = [match.span() for match in _WHOLE.finditer(text)]
    cuts: list[int] = []
    inside = 0
    for match in _END.finditer(text):
        start, end = match.span()
        while inside < len(whole) and whole[inside][1] <= start:
            inside += 1
        if inside < len(whole) and whole[inside][0] <= start:
            continue
        if match.group() != "\n" and _goes_on(text, start, end):
            continue
        cuts.append(end)
    return _tiles(text, cuts)


def _goes_on(text: str, start: int, end: int) -> bool:
    """Whether the full stop ``[start, end)`` ends no sentence."""
    if text[start:end] == "!" and _FACTORIAL.search(text[max(start - 3, 0) : start]):
        return _AFTER_FACTORIAL.match(text, end) is not None
    if text[start:end] != ".":
        return text[start] == "…" or text.startswith("...", start)
    before = text[max(start - 12, 0) : end]
    if _ABBREVIATION.search(before):
        return True
    line = text[text.rfind("\n", 0, start) + 1 : end]
    return len(line) < 16 and _ITEM.search(line) is not None


def _tiles(text: str, cuts: list[int]) -> list[Span]:
    """Cut at ``cuts``; white space goes with what stands before it, at the beginning after it."""
    spans: list[Span] = []
    start = 0
    for cut in [*cuts, len(text)]:
        if cut <= start:
            continue
        if text[start:cut].strip():
            spans.append((start, cut))
            start = cut
        elif spans:
            spans[-1] = (spans[-1][0], cut)
            start = cut
    return spans


def trimmed(text: str, span: Span) -> Span:
    """``span`` without the white space around it."""
    part = text[slice(*span)]
    start = span[0] + len(part) - len(part.lstrip())
    return start, start + len(part.strip())
