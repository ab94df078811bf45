"""Blocks with numbered tags (``<Goal 1>``, ``<Path 1>``), as the prompting test asks for them.

A stock model writes them as text, more or less as told. The reader takes what it gets: a tag opens
something only where it begins a line or follows a tag, so that a tag that is talked about stays
text; a closing tag counts wherever its opener is open; numbers may be missing, tags lower-case.
What departs from the form is an issue of the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rapidfuzz import fuzz

from sglang_multiverse import text as canonical

from ..gates.meaning.normal import normal

#: A path that is this much like its goal (of 100) says nothing that the goal does not.
_RESTATED = 90

_TAG = re.compile(
    r"<[ \t]*(?P<close>/?)[ \t]*(?P<kind>parallel|goal|path|conclusion)"
    r"(?:[ \t_#:-]*(?P<label>\d+(?:\.\d+)*))?[ \t]*>",
    re.IGNORECASE,
)
_MARKS = " \t*_#>`-"


@dataclass
class Part:
    """A goal, a path or a conclusion; text and, in a path, blocks."""

    kind: str
    label: str | None
    content: list[str | Block] = field(default_factory=list)
    closed: bool = False

    @property
    def text(self) -> str:
        """Its own text, without that of its blocks."""
        return "".join(one for one in self.content if isinstance(one, str)).strip()

    @property
    def blocks(self) -> list[Block]:
        return [one for one in self.content if isinstance(one, Block)]


@dataclass
class Block:
    """One block. ``implied``: its ``<Parallel>`` is missing."""

    implied: bool = False
    goals: list[Part] = field(default_factory=list)
    paths: list[Part] = field(default_factory=list)
    conclusion: Part | None = None
    closed: bool = False
    issues: list[str] = field(default_factory=list)
    between: str = ""

    @property
    def written(self) -> list[Part]:
        """The paths that say more than their goals."""
        return [path for path in self.paths if self._says_something(path)]

    def _says_something(self, path: Part) -> bool:
        if path.blocks:
            return True
        said = normal(path.text).text.lower()
        goal = next((one for one in self.goals if one.label == path.label), None)
        if not re.search(r"\w", said):
            return False
        return goal is None or fuzz.ratio(said, normal(goal.text).text.lower()) < _RESTATED

    @property
    def forks(self) -> bool:
        """Two paths at least are really written."""
        return len(self.written) > 1

    @property
    def well_formed(self) -> bool:
        """As asked for: two goals at least, a written path for each, in order, a conclusion."""
        labels = [goal.label for goal in self.goals]
        return (
            not self.issues
            and self.closed
            and len(labels) > 1
            and len(set(labels)) == len(labels)
            and [path.label for path in self.written] == labels
            and len(self.paths) == len(labels)
            and self.conclusion is not None
            and bool(self.conclusion.text)
            and all(inner.well_formed for path in self.paths for inner in path.blocks)
        )


@dataclass
class Written:
    """A reply: text and blocks in order."""

    content: list[str | Block] = field(default_factory=list)

    def walk(self) -> Iterator[Block]:
        """Every block, parents before children."""
        stack = [one for one in reversed(self.content) if isinstance(one, Block)]
        while stack:
            block = stack.pop()
            yield block
            stack.extend(inner for path in reversed(block.paths) for inner in path.blocks)

    def canonical(self) -> str:
        """The reply in the dialect's form, so that it is measured as any trace is. Blocks that
        fork are blocks there; of the others the text stays."""
        return canonical.serialise(canonical.Document(answer=_content(self.content)))


def read_numbered(text: str) -> Written:
    """The blocks of ``text``. Never raises."""
    reader = _Reader()
    at = 0
    for match in _TAG.finditer(text):
        opener = not match["close"]
        if opener and not _begins(text, at, match.start()):
            continue
        kind = match["kind"].lower()
        if not opener and not reader.is_open(kind):
            reader.stray(kind)
            continue
        reader.put(text[at : match.start()])
        at = match.end()
        if opener:
            reader.open(kind, match["label"])
        else:
            reader.close(kind, match["label"])
    reader.put(text[at:])
    reader.finish()
    return reader.written


def _begins(text: str, at: int, start: int) -> bool:
    """Whether nothing stands before ``start`` on its line, or since the tag before, from ``at``."""
    line = max(text.rfind("\n", 0, start) + 1, at)
    return not text[line:start].strip(_MARKS)


class _Reader:
    def __init__(self) -> None:
        self.written = Written()
        self.stack: list[Block | Part] = []

    def put(self, text: str) -> None:
        if not text:
            return
        top = self.stack[-1] if self.stack else None
        if isinstance(top, Block):
            top.between += text
            if text.strip():
                top.issues.append("text-between")
        else:
            (top.content if top else self.written.content).append(text)

    def is_open(self, kind: str) -> bool:
        return any(_kind(one) == kind for one in self.stack)

    def stray(self, kind: str) -> None:
        block = self.block()
        if block is not None:
            block.issues.append(f"stray-{kind}")

    def block(self) -> Block | None:
        return next((one for one in reversed(self.stack) if isinstance(one, Block)), None)

    def open(self, kind: str, label: str | None) -> None:
        if kind == "parallel":
            self.open_block(implied=False)
            return
        top = self.stack[-1] if self.stack else None
        if isinstance(top, Part) and not (kind == "goal" and top.kind == "path"):
            self.pop("unclosed")  # the next part begins: the one before it was never closed
        if not self.stack or isinstance(self.stack[-1], Part):
            self.open_block(implied=True)
        block = self.stack[-1]
        assert isinstance(block, Block)
        part = Part(kind, label)
        if label is None and kind != "conclusion":
            block.issues.append("no-number")
        if kind == "conclusion":
            if block.conclusion is not None:
                block.issues.append("second-conclusion")
            block.conclusion = part
        else:
            (block.goals if kind == "goal" else block.paths).append(part)
        self.stack.append(part)

    def open_block(self, *, implied: bool) -> None:
        block = Block(implied=implied)
        if implied:
            block.issues.append("no-parallel-tag")
        top = self.stack[-1] if self.stack else None
        if isinstance(top, Part):
            if top.kind != "path":
                block.issues.append(f"block-in-{top.kind}")
            top.content.append(block)
        elif isinstance(top, Block):
            top.issues.append("block-between")
            self.written.content.append(block)
        else:
            self.written.content.append(block)
        self.stack.append(block)

    def close(self, kind: str, label: str | None) -> None:
        while _kind(self.stack[-1]) != kind:
            self.pop("unclosed")
        top = self.stack.pop()
        top.closed = True
        block = top if isinstance(top, Block) else self.block()
        if isinstance(top, Part) and label is not None and label != top.label and block:
            block.issues.append("closing-number")
        if kind == "conclusion" and isinstance(block, Block) and block.implied:
            self.stack.pop()  # nothing else would end it
            block.closed = True

    def pop(self, issue: str) -> None:
        top = self.stack.pop()
        block = top if isinstance(top, Block) else self.block()
        if block is not None:
            block.issues.append(issue)

    def finish(self) -> None:
        while self.stack:
            self.pop("unclosed")


def _kind(one: Block | Part) -> str:
    return "parallel" if isinstance(one, Block) else one.kind


def _content(parts: list[str | Block]) -> canonical.Content:
    out: canonical.Content = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif part.forks:
            out.append(_block(part))
        else:
            out.append("\n")
            out += _unforked(part)
    return out


def _block(block: Block) -> canonical.Block:
    goals = block.goals if len(block.goals) > 1 else block.written
    outlines = [
        canonical.Outline(str(n), f" {goal.text if goal.kind == 'goal' else ''}")
        for n, goal in enumerate(goals, start=1)
    ]
    paths = [
        canonical.Path(str(n), [" ", *_content(path.content)])
        for n, path in enumerate(block.written, start=1)
    ]
    said = block.conclusion.text if block.conclusion else ""
    return canonical.Block(outlines, paths, canonical.Conclusion([said]), cue="")


def _unforked(block: Block) -> canonical.Content:
    parts = [*block.goals, *block.paths, *([block.conclusion] if block.conclusion else [])]
    return [one for part in parts for one in (*_content(part.content), "\n")]
