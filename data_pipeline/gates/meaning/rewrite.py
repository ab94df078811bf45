"""What a rewritten block must keep of the block it was made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ...finding import Finding
from ..options import GateOptions
from ..text.located import Located, LocatedBlock, Part, Span
from .faithful import check_faithful

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|\\[a-z]+")

#: Words so common that keeping them says nothing.
_EMPTY = re.compile(
    r"the|an?|of|to|is|are|be|was|were|its?|this|that|these|those|we|i|so|and|or|for|in|on|at|by"
    r"|with|as|from|then|therefore|thus|hence|let|s|me|us|our|my|which|can|will|would|have|has|had"
    r"|now|wait|okay|hmm|ok|well|just|also|but|not|if|there|here|first|next"
)


def check_rewrite(old: Located, new: Located, options: GateOptions) -> list[Finding]:
    """Structure unchanged, and every path still says what it said."""
    if len(new.blocks) != 1:
        return [
            _finding(
                "changed-structure", f"one block is wanted, here are {len(new.blocks)}", (0, 0)
            )
        ]
    if len(old.blocks) != 1:
        raise ValueError(f"the old text holds {len(old.blocks)} blocks, not one")
    return list(_compare(old, new, old.blocks[0], new.blocks[0], options))


def _finding(code: str, message: str, span: Span) -> Finding:
    return Finding(code, message, span, gate="content")


def _compare(
    old: Located, new: Located, one: LocatedBlock, two: LocatedBlock, options: GateOptions
) -> Iterator[Finding]:
    if [p.label for p in one.paths] != [p.label for p in two.paths]:
        labels = ", ".join(path.label or "?" for path in one.paths)
        yield _finding(
            "changed-structure", f"the block's paths were {labels}; keep these", two.span
        )
        return
    before = [_words(old, path) for path in one.paths]
    for index, (was, now) in enumerate(zip(one.paths, two.paths, strict=True)):
        if len(was.blocks) != len(now.blocks):
            yield _finding(
                "changed-structure",
                f"path {now.label} held {len(was.blocks)} blocks and now holds {len(now.blocks)}; "
                "keep every tag",
                now.span,
            )
        else:
            for inner_old, inner_new in zip(was.blocks, now.blocks, strict=True):
                yield from _compare(old, new, inner_old, inner_new, options)
        words = _words(new, now)
        kept = _share(before[index], words)
        if kept >= options.min_kept:
            if options.faithful:
                outlines = "\n".join(old.at(outline.inner) for outline in one.outlines)
                yield from _faithful(old, new, was, now, outlines)
            continue
        other = max(range(len(before)), key=lambda k: _share(before[k], words))
        if other != index and _share(before[other], words) >= options.min_kept:
            yield _finding(
                "swapped-paths",
                f"path {now.label} says what path {one.paths[other].label} said; keep each path's "
                "number",
                now.inner,
            )
        else:
            yield _finding(
                "lost-content",
                f"path {now.label} keeps {kept:.0%} of the words and numbers it had; say all of it",
                now.inner,
            )


def _faithful(old: Located, new: Located, was: Part, now: Part, given: str) -> Iterator[Finding]:
    """What the path's own text states otherwise than it did; ``given`` is every path's."""
    said, says = ("\n".join(map(text.at, path.own())) for text, path in ((old, was), (new, now)))
    if said.split() == says.split():
        return
    for one in check_faithful(said, says, context=given):
        # Where in the path is told by what the message quotes: its text may be in pieces.
        yield replace(one, span=now.inner, span_in="text")


def _words(located: Located, path: Part) -> Counter[str]:
    """The words and numbers of a path's own text, without the commonest words."""
    text = "\n".join(located.at(span) for span in path.own()).lower()
    return Counter(word for word in _WORD.findall(text) if not _EMPTY.fullmatch(word))


def _share(old: Counter[str], new: Counter[str]) -> float:
    """How much of the vocabulary of ``old`` is in ``new``; repetitions need not be kept."""
    if not old:
        return 1.0
    return sum(word in new for word in old) / len(old)
