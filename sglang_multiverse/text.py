"""The text form: a document tree to read and to build, and its canonical serialisation.

In canonical form every tag stands on a line of its own. A tree that was built says nothing of
spacing; a tree that was parsed keeps, per node, only the gaps that depart from the canonical
ones, so :func:`serialise` gives every text back byte for byte. The structure itself comes from
:func:`sglang_multiverse.structure.parse`, as it does for tokens.

>>> parts = [Path("1", [" 12 + 30 = 42."]), Path("2", [" 5 * 8 = 40."])]
>>> outlines = [Outline("1", " Add."), Outline("2", " Multiply.")]
>>> block = Block(outlines, parts, Conclusion(["42 is greater."]))
>>> text = serialise(Document(thought=["Two sums.", block], answer=["Answer: 42"]))
>>> parse_text(text).blocks == [block]
True
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from . import structure
from .dialect import MULTIVERSE, DialectSpec, Tag
from .lexer import Lexed, lex

#: Blocks nested deeper than this stay text in the tree; real ones were never deeper than 4.
MAX_DEPTH = 64

#: Gaps of a node that depart from the canonical spacing, by the name of the gap.
Gaps = dict[str, str]


@dataclass
class Outline:
    """One numbered line of a goal. ``text`` begins after the colon, usually with a space."""

    label: str | None
    text: str
    gaps: Gaps = field(default_factory=dict)


@dataclass
class Path:
    """One path; its ``content`` begins after the colon and may hold blocks."""

    label: str | None
    content: list[str | Block]
    closed: bool = True
    gaps: Gaps = field(default_factory=dict)


@dataclass
class Conclusion:
    """What a block comes to."""

    content: list[str | Block]
    closed: bool = True
    gaps: Gaps = field(default_factory=dict)


@dataclass
class Block:
    """One ``<Parallel>`` block. ``cue`` is the line before it; None stands for the dialect's."""

    outlines: list[Outline]
    paths: list[Path]
    conclusion: Conclusion | None = None
    cue: str | None = None
    closed: bool = True
    gaps: Gaps = field(default_factory=dict)


Content = list[str | Block]


@dataclass
class Document:
    """One answer.

    Attributes:
        thought: what ``<Think>`` holds; None for a text without one.
        answer: what follows ``</Think>``, or the whole text where there is no thought.
        head: what stands before ``<Think>``, normally nothing.
        closed: False for a thought that was cut before its ``</Think>``.
        issues: departures from the canonical form that parsing met, at offsets in pieces.
    """

    thought: Content | None = None
    answer: Content = field(default_factory=list)
    head: Content = field(default_factory=list)
    closed: bool = True
    gaps: Gaps = field(default_factory=dict)
    issues: list[structure.Issue] = field(default_factory=list, compare=False)

    @property
    def blocks(self) -> list[Block]:
        """The outermost blocks, in text order."""
        parts = [*self.head, *(self.thought or ()), *self.answer]
        return [part for part in parts if isinstance(part, Block)]

    def walk(self) -> Iterator[tuple[Block, int]]:
        """Every block with its depth (1 = outermost), parents before children."""
        yield from _walk(self.blocks, 1)

    @property
    def canonical(self) -> bool:
        """Whether the text is complete and in canonical form."""
        return not self.issues and self.closed


def _walk(parts: Sequence[str | Block], depth: int) -> Iterator[tuple[Block, int]]:
    for part in parts:
        if isinstance(part, Block):
            yield part, depth
            for path in part.paths:
                yield from _walk(path.content, depth + 1)
            if part.conclusion is not None:
                yield from _walk(part.conclusion.content, depth)


# --- writing ---------------------------------------------------------------------------------


class _Writer:
    """Writes nodes; with ``trim``, drops from them the gaps that equal the canonical ones."""

    def __init__(self, spec: DialectSpec, *, trim: bool = False):
        self.spec = spec
        self.trim = trim
        self.out: list[str] = []
        self.fresh = True  # at the beginning of a line

    def put(self, text: str) -> None:
        if text:
            self.out.append(text)
            self.fresh = text.endswith("\n")

    def gap(self, gaps: Gaps, name: str, canonical: str) -> None:
        self.put(gaps.get(name, canonical))
        if self.trim and gaps.get(name) == canonical:
            del gaps[name]

    def before(self, gaps: Gaps, name: str) -> None:
        """The gap before a tag: a tag begins a line."""
        self.gap(gaps, name, "" if self.fresh else "\n")

    def tag(self, tag: Tag, gaps: Gaps, after: str) -> None:
        self.put(self.spec[tag])
        self.gap(gaps, after, self.spec.separator)

    def document(self, node: Document) -> None:
        gaps = node.gaps
        self.content(node.head)
        if node.thought is not None:
            self.before(gaps, "before_think")
            self.tag(Tag.THINK, gaps, "after_think")
            self.content(node.thought)
            if node.closed:
                self.before(gaps, "before_end_think")
                self.put(self.spec[Tag.END_THINK])
                self.gap(gaps, "after_end_think", self.spec.after_think)
        self.content(node.answer)

    def content(self, content: Content) -> None:
        for part in content:
            if isinstance(part, str):
                self.put(part)
            else:
                self.block(part)

    def block(self, node: Block) -> None:
        gaps = node.gaps
        self.before(gaps, "before_cue")
        if self.trim and node.cue == self.spec.cue:
            node.cue = None
        self.put(self.spec.cue if node.cue is None else node.cue)
        self.tag(Tag.PARALLEL, gaps, "after_parallel")
        self.tag(Tag.GOAL, gaps, "after_goal")
        for outline in node.outlines:
            self.tag(Tag.OUTLINE, outline.gaps, "after_open")
            self.labelled(outline.label, outline.text)
            self.before(outline.gaps, "before_close")
            self.tag(Tag.END_OUTLINE, outline.gaps, "after_close")
        self.tag(Tag.END_GOAL, gaps, "after_end_goal")
        for path in node.paths:
            self.tag(Tag.PATH, path.gaps, "after_open")
            self.labelled(path.label, "")
            self.content(path.content)
            self.close(path, Tag.END_PATH)
        if node.conclusion is not None:
            self.tag(Tag.CONCLUSION, node.conclusion.gaps, "after_open")
            self.content(node.conclusion.content)
            self.close(node.conclusion, Tag.END_CONCLUSION)
        if node.closed:
            self.tag(Tag.END_PARALLEL, gaps, "after_end_parallel")

    def labelled(self, label: str | None, text: str) -> None:
        self.put(text if label is None else f"{label}:{text}")

    def close(self, node: Path | Conclusion, tag: Tag) -> None:
        if node.closed:
            self.before(node.gaps, "before_close")
            self.tag(tag, node.gaps, "after_close")


def serialise(document: Document, spec: DialectSpec = MULTIVERSE) -> str:
    """The text of ``document``: canonical, but for the gaps its nodes carry.

    A text part that itself holds a line consisting of a tag changes the structure; compare
    ``parse_text(serialise(document)) == document`` where parts come from elsewhere.
    """
    writer = _Writer(spec)
    writer.document(document)
    return "".join(writer.out)


def encodable(text: str) -> str:
    """``text`` with half surrogate pairs replaced: JSON may escape one, and no output can encode
    it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- reading ---------------------------------------------------------------------------------


def parse_text(text: str, spec: DialectSpec = MULTIVERSE) -> Document:
    """The tree of ``text``. Never raises; ``Document.issues`` says what is not canonical.

    ``serialise(parse_text(text, spec), spec) == text`` for every text.
    """
    lexed = lex(text, spec)
    trace = structure.parse(lexed.ids, lexed.dialect)
    document = _Reader(text, lexed, trace, spec).document()
    _Writer(spec, trim=True).document(document)
    return document


class _Reader:
    """Builds nodes over spans of the text, with every gap explicit. Spans are in characters."""

    def __init__(self, text: str, lexed: Lexed, trace: structure.Trace, spec: DialectSpec):
        self.source = text
        self.ids = lexed.ids
        self.trace = trace
        self.spec = spec
        lengths = map(len, lexed.pieces)
        self.at = list(accumulate(lengths, initial=0))  # token offset → character offset

    def document(self) -> Document:
        node = Document(issues=list(self.trace.issues))
        blocks, end = self.trace.blocks, len(self.source)
        opened = self.first(Tag.THINK, 0)
        if opened is None or any(b.start < opened < b.end for b in blocks):
            node.answer, _ = self.content(0, end, blocks, 0)
            return node
        gaps = node.gaps
        node.head, gaps["before_think"] = self.content(0, self.at[opened], blocks, 0, to_tag=True)
        start, gaps["after_think"] = self.after(self.at[opened + 1], end)
        closed = self.first(Tag.END_THINK, opened)
        if closed is None:
            node.closed = False
            node.thought, _ = self.content(start, end, blocks, 0)
            return node
        node.thought, gaps["before_end_think"] = self.content(
            start, self.at[closed], blocks, 0, to_tag=True
        )
        start, gaps["after_end_think"] = self.after(self.at[closed + 1], end, self.spec.after_think)
        node.answer, _ = self.content(start, end, blocks, 0)
        return node

    def first(self, tag: Tag, start: int) -> int | None:
        found = np.flatnonzero(self.ids[start:] == tag)
        return start + int(found[0]) if len(found) else None

    def after(self, start: int, limit: int, gap: str | None = None) -> tuple[int, str]:
        """The canonical gap after a tag that ends at ``start``, as far as it is there."""
        wanted = self.spec.separator if gap is None else gap
        end = start + len(wanted)
        if end <= limit and self.source.startswith(wanted, start):
            return end, wanted
        return start, ""

    def content(
        self,
        start: int,
        end: int,
        blocks: Sequence[structure.Block],
        depth: int,
        *,
        to_tag: bool = False,
    ) -> tuple[Content, str]:
        """Text ``[start, end)`` with those of ``blocks`` that lie within, and, with ``to_tag``,
        the gap before the tag that follows."""
        parts: Content = []

        def put(text: str) -> None:
            if text:
                parts.append(text)

        for block in blocks if depth < MAX_DEPTH else ():
            first, last = self.at[block.start], self.at[block.end]
            if first < start or last > end:
                continue  # only in malformed text; what is no node stays text
            before = self.source[start:first]
            cued = before.endswith(self.spec.cue)
            if cued:
                before = before[: -len(self.spec.cue)]
            before, gap = _split_break(before)
            put(before)
            node = self.block(block, blocks, depth)
            node.cue = self.spec.cue if cued else ""
            node.gaps["before_cue"] = gap
            start = last
            if block.closed:
                start, node.gaps["after_end_parallel"] = self.after(last, end)
            parts.append(node)
        text, gap = self.source[start:end], ""
        if to_tag:
            text, gap = _split_break(text)
        put(text)
        return parts, gap

    def block(
        self, block: structure.Block, siblings: Sequence[structure.Block], depth: int
    ) -> Block:
        between = self.between
        goal, goal_end = block.goal
        node = Block([], [], closed=block.closed)
        node.gaps["after_parallel"] = between(block.start + 1, goal)
        node.gaps["after_goal"] = between(goal + 1, block.outlines[0][0])
        edges = [start for start, _ in block.outlines[1:]] + [goal_end - 1]
        for (start, end), edge in zip(block.outlines, edges, strict=True):
            node.outlines.append(self.outline(start, end, edge))
        node.gaps["after_end_goal"] = between(goal_end, block.region_start)
        node.paths = [self.path(path, depth) for path in block.paths]
        if block.conclusion is not None:
            tail = block.end - 1 if block.closed else block.end
            node.conclusion = self.conclusion(*block.conclusion, tail, siblings, depth)
        return node

    def outline(self, start: int, end: int, edge: int) -> Outline:
        limit = self.at[end - 1]
        at, gap = self.after(self.at[start + 1], limit)
        at, label = self.label(at, limit)
        text, before = _split_break(self.source[at:limit])
        gaps = {"after_open": gap, "before_close": before, "after_close": self.between(end, edge)}
        return Outline(label, text, gaps)

    def path(self, path: structure.Path, depth: int) -> Path:
        closed = path.close is not None
        limit = self.at[path.end if path.close is None else path.close - 1]
        at, gap = self.after(self.at[path.start + 1], limit)
        at, label = self.label(at, limit)
        content, before = self.content(at, limit, path.blocks, depth + 1, to_tag=closed)
        gaps = {"after_open": gap}
        if path.close is not None:
            gaps["before_close"] = before
            gaps["after_close"] = self.between(path.close, path.end)
        return Path(label, content, closed, gaps)

    def conclusion(
        self, start: int, end: int, tail: int, siblings: Sequence[structure.Block], depth: int
    ) -> Conclusion:
        closed = int(self.ids[end - 1]) == Tag.END_CONCLUSION
        limit = self.at[end - 1 if closed else tail]
        at, gap = self.after(self.at[start + 1], limit)
        content, before = self.content(at, limit, siblings, depth + 1, to_tag=closed)
        gaps = {"after_open": gap}
        if closed:
            gaps["before_close"] = before
            gaps["after_close"] = self.between(end, tail)
        return Conclusion(content, closed, gaps)

    def label(self, start: int, limit: int) -> tuple[int, str | None]:
        match = _LABEL.match(self.source, start, limit)
        return (match.end(), match.group(1)) if match else (start, None)

    def between(self, start: int, end: int) -> str:
        """The text of tokens ``[start, end)``."""
        return self.source[self.at[start] : self.at[end]]


_LABEL = re.compile(r"([0-9.]+):")


def _split_break(text: str) -> tuple[str, str]:
    """Cut off the line end that a following tag brings along. One of several stays whole."""
    if text.endswith("\n") and not text.endswith("\n\n"):
        return text[:-1], "\n"
    return text, ""
