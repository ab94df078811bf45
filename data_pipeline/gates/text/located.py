"""The tree of a text with the characters every part of it stands at.

The structure is :func:`sglang_multiverse.structure.parse`'s; here it is what findings point into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from sglang_multiverse import structure
from sglang_multiverse.dialect import MULTIVERSE, DialectSpec, Tag
from sglang_multiverse.lexer import lex, split_tags

Span = tuple[int, int]

LABEL = re.compile(r"([0-9.]+):")


@dataclass(frozen=True)
class Part:
    """An outline, a path or a conclusion.

    Attributes:
        label: its number, None without one.
        span: with its tags.
        inner: what stands between label and closing tag.
        blocks: the blocks of a path.
    """

    label: str | None
    span: Span
    inner: Span
    blocks: tuple[LocatedBlock, ...] = ()

    def own(self) -> Iterator[Span]:
        """What of ``inner`` is in none of its blocks."""
        yield from _around(self.inner, self.blocks)


@dataclass(frozen=True)
class LocatedBlock:
    """One block; ``span`` begins with its cue line, where it has one."""

    depth: int
    span: Span
    tag: Span
    outlines: tuple[Part, ...]
    paths: tuple[Part, ...]
    conclusion: Part | None


@dataclass(frozen=True)
class Located:
    """A text and its blocks.

    Attributes:
        thought: what ``<Think>`` holds; None without one.
        answer: what follows the last ``</Think>``; the whole text without one.
        issues: what :func:`~sglang_multiverse.structure.parse` notes, with character offsets.
    """

    text: str
    blocks: tuple[LocatedBlock, ...]
    thought: Span | None
    answer: Span
    issues: tuple[tuple[structure.Issue, int], ...]

    def walk(self) -> Iterator[LocatedBlock]:
        """Every block, parents before children."""
        for block, _ in self.walk_with_parent():
            yield block

    def walk_with_parent(self) -> Iterator[tuple[LocatedBlock, Part | None]]:
        """Every block with the path it stands in (None for the outermost)."""
        stack: list[tuple[LocatedBlock, Part | None]] = [(b, None) for b in reversed(self.blocks)]
        while stack:
            block, parent = stack.pop()
            yield block, parent
            inner = [(nested, path) for path in block.paths for nested in path.blocks]
            stack.extend(reversed(inner))

    def kept(self, span: Span) -> list[Span]:
        """What of ``span`` the autoregressive twin keeps: no tags, goals, conclusions, labels."""
        blocks = [b for b in self.blocks if span[0] <= b.span[0] and b.span[1] <= span[1]]
        return [s for s in _kept(span, blocks) if s[0] < s[1]]

    def at(self, span: Span) -> str:
        return self.text[slice(*span)]


@lru_cache(maxsize=64)
def locate(text: str, spec: DialectSpec = MULTIVERSE) -> Located:
    """The tree of ``text``. Never raises. Several gates ask for the same, one after another."""
    lexed = lex(text, spec)
    at = list(accumulate(map(len, lexed.pieces), initial=0))
    trace = structure.parse(lexed.ids, lexed.dialect)
    blocks = tuple(_block(text, at, block, 1, spec) for block in trace.blocks)
    opened = closed = None
    position = 0
    for string, tag in split_tags(text, spec):
        if tag is Tag.THINK and opened is None:
            opened = position + len(string)
        elif tag is Tag.END_THINK:
            closed = (position, position + len(string))
        position += len(string)
    thought = None
    if opened is not None:
        thought = (opened, closed[0] if closed and closed[0] >= opened else len(text))
    if closed is not None:
        answer = (closed[1], len(text))
    else:
        answer = (len(text), len(text)) if thought else (0, len(text))
    issues = tuple((issue, at[issue.offset]) for issue in trace.issues)
    return Located(text, blocks, thought, answer, issues)


def _block(
    text: str, at: list[int], block: structure.Block, depth: int, spec: DialectSpec
) -> LocatedBlock:
    start, end = at[block.start], at[block.end]
    first = start
    if text.endswith(spec.cue, 0, start):
        first = start - len(spec.cue)
    conclusion = None
    if block.conclusion is not None:
        conclusion = _part(text, (at[block.conclusion[0]], at[block.conclusion[1]]), spec, False)
    return LocatedBlock(
        depth=depth,
        span=(first, end),
        tag=(start, at[block.start + 1]),
        outlines=tuple(_part(text, (at[s], at[e]), spec) for s, e in block.outlines),
        paths=tuple(
            _part(
                text,
                (at[path.start], at[path.end if path.close is None else path.close]),
                spec,
                blocks=tuple(_block(text, at, inner, depth + 1, spec) for inner in path.blocks),
            )
            for path in block.paths
        ),
        conclusion=conclusion,
    )


def _part(
    text: str,
    span: Span,
    spec: DialectSpec,
    labelled: bool = True,
    blocks: tuple[LocatedBlock, ...] = (),
) -> Part:
    start, end = span
    inner_start = text.index(">", start) + 1
    if text.startswith(spec.separator, inner_start):
        inner_start += len(spec.separator)
    for tag in (Tag.END_OUTLINE, Tag.END_PATH, Tag.END_CONCLUSION):
        if text.endswith(spec[tag], inner_start, end):
            end -= len(spec[tag])
    label = LABEL.match(text, inner_start, end) if labelled else None
    if label is not None:
        inner_start = label.end()
    return Part(label.group(1) if label else None, span, (inner_start, end), blocks)


def _around(span: Span, blocks: tuple[LocatedBlock, ...] | list[LocatedBlock]) -> Iterator[Span]:
    at = span[0]
    for block in blocks:
        yield at, max(block.span[0], at)
        at = block.span[1]
    yield at, max(span[1], at)


def _kept(span: Span, blocks: tuple[LocatedBlock, ...] | list[LocatedBlock]) -> Iterator[Span]:
    at = span[0]
    for block in blocks:
        yield at, max(block.span[0], at)
        for path in block.paths:
            yield from _kept(path.inner, path.blocks)
        at = block.span[1]
    yield at, max(span[1], at)
