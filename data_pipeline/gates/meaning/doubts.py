"""What words raise and cannot settle: a judge does, where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ...finding import Finding
from ..text.located import Located, LocatedBlock, Part
from .faithful import check_concluded, check_outlined

#: Codes of :func:`~.faithful.check_faithful` that another wording may raise, too. Numbers that are
#: new or gone, relations that are not the source's and false sums are faults.
DOUBTFUL = frozenset(
    (
        *("lost-statement", "new-statement", "lost-formula", "new-formula"),
        *("changed-negation", "contrary", "changed-name", "changed-number", "changed-operation"),
    )
)


#: The code of a conclusion in which words find nothing.
UNCHECKED = "unchecked-conclusion"
_TAG = re.compile(r"</?[A-Z][a-z]+>")


def check_ends(
    located: Located, block: LocatedBlock, question: str, *, every: bool = False
) -> list[Finding]:
    """What is doubtful in the outlines and conclusions of ``block`` and the blocks inside, given
    what its paths say, the question and the text before.

    Args:
        every: doubt every conclusion, for words find little more than half of the false ones.
    """
    before = f"{question}\n{located.text[: block.span[0]]}"
    return list(_ends(located, block, before, every))


def _ends(located: Located, block: LocatedBlock, before: str, every: bool) -> Iterator[Finding]:
    said = [_own(located, path) for path in block.paths]
    for outline, path, own in zip(block.outlines, block.paths, said, strict=False):
        siblings = [other for other in said if other is not own]
        for one in check_outlined(located.at(outline.inner), own, siblings):
            yield _of(f"outline {outline.label}", path, one)
    if block.conclusion is not None:
        whole = [_TAG.sub("", located.at(path.inner)) for path in block.paths]
        outlines = "\n".join(located.at(outline.inner) for outline in block.outlines)
        text = located.at(block.conclusion.inner)
        found = check_concluded(whole, text, context=f"{before}\n{outlines}")
        if every and not found:
            message = "do the paths come to it?"
            found = [Finding(UNCHECKED, message, gate="faithful")]
        for one in found:
            yield _of("the conclusion", block.conclusion, one)
    for path in block.paths:
        for inner in path.blocks:
            yield from _ends(located, inner, before, every)


def _own(located: Located, path: Part) -> str:
    return "\n".join(map(located.at, path.own()))


def _of(what: str, part: Part, one: Finding) -> Finding:
    return replace(one, message=f"{what}: {one.message}", span=part.inner, span_in="text")
