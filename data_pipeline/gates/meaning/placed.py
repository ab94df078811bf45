"""Paths held against the sentences of the source that they were made of.

For a text of which only the sequential source is at hand: sentences of both are matched in order,
and what a path was made of is what its sentences match, with what stands between them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rapidfuzz import fuzz, process

from ...finding import Finding
from ...source.sentences import Span, split_sentences
from ..text.located import Located, LocatedBlock, Part
from .faithful import check_faithful

#: Likeness, of 100, from which two sentences that are not the same may be each other's.
LIKE = 55
#: Pairs of sentences compared between two that are the same; beyond it none is.
MOST_PAIRS = 40_000


@dataclass(frozen=True)
class _Said:
    """One sentence of the text; ``owner`` is the number of its path, -1 outside of all."""

    text: str
    owner: int


def check_paths(located: Located, source: str) -> list[Finding]:
    """What each path states otherwise than the sentences of ``source`` it was made of.

    Codes are those of :func:`~.faithful.check_faithful`, and ``unplaced-path`` for a path no
    sentence of which is like any of the source.
    """
    paths = [(block, path) for block in located.walk() for path in block.paths]
    if not paths:
        return []
    said = list(_sentences(located, [path for _, path in paths]))
    was = [source[start:end] for start, end in split_sentences(source)]
    found = _matched([one.text for one in said], was)
    made_of: dict[int, list[str]] = {number: [] for number in range(len(paths))}
    for owner, sentence in zip(_owners(said, found, len(was)), was, strict=True):
        if owner >= 0:
            made_of[owner].append(sentence)
    findings: list[Finding] = []
    for number, (block, path) in enumerate(paths):
        findings += _compared(located, block, path, made_of[number])
    return findings


def _compared(
    located: Located, block: LocatedBlock, path: Part, sentences: list[str]
) -> Iterator[Finding]:
    now = "\n".join(located.at(span) for span in path.own())
    if not now.strip():
        return
    if not sentences:
        yield Finding(
            "unplaced-path",
            f"path {path.label} is like no sentence of the source",
            path.inner,
            gate="faithful",
        )
        return
    outlines = "\n".join(located.at(outline.inner) for outline in block.outlines)
    for one in check_faithful("\n".join(sentences), now, context=outlines):
        yield replace(
            one, message=f"path {path.label}: {one.message}", span=path.inner, span_in="text"
        )


def _sentences(located: Located, paths: Sequence[Part]) -> Iterator[_Said]:
    """Every sentence of text, goals and conclusions, in order."""
    own = sorted((span, number) for number, path in enumerate(paths) for span in path.own())
    start, end = located.thought or located.answer
    at = start
    for (first, last), number in [*own, ((end, end), -1)]:
        if first > at:
            yield from _split(located, (at, first), -1)
        if last > first:
            yield from _split(located, (first, last), number)
        at = max(at, last)


_TAGS = re.compile(r"</?[A-Z][A-Za-z]*>")


def _split(located: Located, span: Span, owner: int) -> Iterator[_Said]:
    text = _TAGS.sub("\n", located.text[span[0] : span[1]])
    for start, end in split_sentences(text):
        yield _Said(text[start:end], owner)


def _matched(new: Sequence[str], old: Sequence[str]) -> list[int | None]:
    """For each sentence of ``new`` the index of the one in ``old`` it matches; indices rise."""
    found: list[int | None] = [None] * len(new)
    squeezed = [["".join(text.lower().split()) for text in texts] for texts in (new, old)]
    matcher = difflib.SequenceMatcher(None, *squeezed, autojunk=False)
    after_new = after_old = 0
    for block in matcher.get_matching_blocks():
        _match_like(new, old, found, (after_new, block.a), (after_old, block.b))
        for step in range(block.size):
            found[block.a + step] = block.b + step
        after_new, after_old = block.a + block.size, block.b + block.size
    return found


def _match_like(
    new: Sequence[str], old: Sequence[str], found: list[int | None], of_new: Span, of_old: Span
) -> None:
    """Match what lies between two matches by likeness, as much of it as there is, in order."""
    rows, columns = of_new[1] - of_new[0], of_old[1] - of_old[0]
    if not rows or not columns or rows * columns > MOST_PAIRS:
        return
    like = process.cdist(
        new[slice(*of_new)], old[slice(*of_old)], scorer=fuzz.token_set_ratio, score_cutoff=LIKE
    )
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            both = best[i + 1][j + 1] + like[i][j] if like[i][j] else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], both)
    i = j = 0
    while i < rows and j < columns:
        if like[i][j] and best[i][j] == best[i + 1][j + 1] + like[i][j]:
            found[of_new[0] + i] = of_old[0] + j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1


def _owners(said: Sequence[_Said], found: Sequence[int | None], count: int) -> list[int]:
    """The path each sentence of the source went into: that of the sentence it matches, or of the
    one before it; of one after text outside of paths, that of the next."""
    owner: list[int | None] = [None] * count
    for one, index in zip(said, found, strict=True):
        if index is not None:
            owner[index] = one.owner
    following: list[int] = []
    then = -1
    for one_owner in reversed(owner):
        then = then if one_owner is None else one_owner
        following.append(then)
    following.reverse()
    before, owners = -1, []
    for index, one_owner in enumerate(owner):
        if one_owner is None:
            owners.append(before if before >= 0 else following[index])
        else:
            before = one_owner
            owners.append(one_owner)
    return owners
