"""The outline of a reasoning chain: a tree of steps in which independent ones are grouped.

The written form is one step a line, with structure by labels and by tags alone on a line::

    S1: Understand the problem
    <parallel>
    Reason: neither case needs the other.
    <branch>
    S2: The even case
    S2.1: Its lower bound
    S2.2: Its upper bound
    </branch>
    <branch>
    S3: The odd case
    S4: Check of the odd case
    </branch>
    </parallel>
    S5: Compare

A group without ``<branch>`` takes each of its steps as a branch. ``S2.1`` belongs to ``S2``
wherever indentation puts it, and so does a group that begins with ``S2.1``. In a filled outline
the source's sentences stand under the labels, on as many lines as they need.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .finding import Finding

Span = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        label: ``S2`` or ``S2.1``.
        text: its own text, without that of its substeps.
        parts: its substeps and their groups.
        span: where ``text`` stands in what was read.
    """

    label: str
    text: str
    parts: tuple[Step | Group, ...] = ()
    span: Span = (0, 0)


@dataclass(frozen=True)
class Group:
    """Branches that need nothing of one another; each is a run of adjacent steps."""

    branches: tuple[tuple[Step | Group, ...], ...]
    reason: str = ""
    span: Span = (0, 0)


@dataclass(frozen=True)
class Outline:
    """The tree.

    Attributes:
        text: what it was read from.
        preamble: what stands before the first step.
        issues: what reading met in it; ``check_outline`` reports them.
    """

    parts: tuple[Step | Group, ...]
    text: str = ""
    preamble: str = ""
    issues: tuple[Finding, ...] = ()

    def steps(self) -> Iterator[Step]:
        """Every step, in text order."""
        yield from _steps(self.parts)

    def groups(self) -> Iterator[tuple[Group, int]]:
        """Every group with its depth (1 = in no other), outer ones first."""
        yield from _groups(self.parts, 1)

    def render(self) -> str:
        """The written form, every branch wrapped."""
        return "".join(_render(self.parts))


def parse_outline(text: str) -> Outline:
    """The outline of ``text``, as the LLM gave it or filled it. Never raises: what cannot be read
    is in ``Outline.issues``."""
    return _Reader(text).run()


#: No label has longer numbers or more of them, and no tag stands in more others: a model in a loop.
MOST_DIGITS, MOST_DEPTH = 9, 32
_STEP = re.compile(r"[ \t]*(?:[-*+#>]+[ \t]+)?[*_]*(S\d+(?:\.\d+)*)[*_]*[ \t]*[:.)][*_]*[ \t]*")
_TAG = re.compile(r"[ \t]*<(/?)(parallel|branch)>[ \t]*", re.IGNORECASE)
_REASON = re.compile(r"[ \t]*\[?(?:parallel[ \t]+)?reason[ \t]*[:\]]", re.IGNORECASE)
_FENCE = re.compile(r"[ \t]*```\w*[ \t]*$")


@dataclass
class _Node:
    """A step, group or branch being read; the root has no kind."""

    kind: str
    label: str = ""
    start: int = 0
    end: int = 0
    reason: list[str] = field(default_factory=list)
    children: list[_Node] = field(default_factory=list)


class _Reader:
    def __init__(self, text: str):
        self.text = text
        self.root = _Node("root")
        self.stack = [self.root]
        self.step: _Node | None = None  # takes the lines that follow
        self.preamble: list[str] = []
        self.issues: list[Finding] = []

    def note(self, code: str, message: str, start: int, end: int) -> None:
        self.issues.append(Finding(code, message, (start, end), gate="outline"))

    def run(self) -> Outline:
        lines = self.lines()
        for index, (start, line) in enumerate(lines):
            tag = _TAG.match(line)
            step = None if tag else _STEP.match(line)
            if tag is not None:
                self.tag(tag, start, line, lines[index + 1 :])
            elif step is not None:
                self.open_step(step, start, line)
            else:
                self.more(start, line)
        for node in self.stack[1:]:
            kind = "parallel" if node.kind == "group" else node.kind
            self.note("unclosed-group", f"<{kind}> is never closed", node.start, node.end)
        return Outline(
            tuple(self.built(self.root.children)),
            self.text,
            "\n".join(self.preamble).strip(),
            tuple(self.issues),
        )

    def lines(self) -> list[tuple[int, str]]:
        """The lines with their offsets, without a code fence around the whole."""
        found = []
        start = 0
        for line in self.text.splitlines(keepends=True):
            found.append((start, line.rstrip("\r\n")))
            start += len(line)
        visible = [index for index, (_, line) in enumerate(found) if line.strip()]
        fences = [index for index in visible if _FENCE.match(found[index][1])]
        if len(fences) >= 2 and fences[-1] == visible[-1]:
            first = fences[0]
            if not any(_STEP.match(line) for _, line in found[:first]):
                return found[:first] + found[first + 1 : fences[-1]]
        return found

    def tag(self, tag: re.Match[str], start: int, line: str, rest: list[tuple[int, str]]) -> None:
        closing, kind = tag.group(1) == "/", tag.group(2).lower()
        self.step = None
        end = start + len(line)
        if closing:
            self.close(kind, start, end)
            return
        if len(self.stack) > 2 * MOST_DEPTH:
            self.note("too-deep", f"<{kind}> stands in {MOST_DEPTH} groups", start, end)
            return
        top = self.stack[-1]
        if kind == "branch" and top.kind != "group":
            if top.kind == "branch":
                self.note("unclosed-branch", "<branch> before the last one is closed", start, end)
                self.stack.pop()
            else:
                self.note("stray-branch", "<branch> stands only in <parallel>", start, end)
        parent = self.stack[-1]
        if kind == "parallel":
            first = next((m.group(1) for _, text in rest if (m := _STEP.match(text))), "")
            parent = _descend(parent, first)
        node = _Node("group" if kind == "parallel" else "branch", start=start, end=end)
        reason = line[tag.end() :].strip()
        if reason:
            node.reason.append(reason)
        parent.children.append(node)
        self.stack.append(node)

    def close(self, kind: str, start: int, end: int) -> None:
        wanted = "group" if kind == "parallel" else "branch"
        depths = [d for d, node in enumerate(self.stack) if node.kind == wanted]
        inner = depths and any(node.kind == "group" for node in self.stack[depths[-1] + 1 :])
        if not depths or inner:
            self.note("stray-tag", f"</{kind}> closes nothing", start, end)
            return
        for node in self.stack[depths[-1] + 1 :]:
            self.note("unclosed-branch", "<branch> is not closed", node.start, start)
        self.stack[depths[-1]].end = end
        del self.stack[depths[-1] :]

    def open_step(self, step: re.Match[str], start: int, line: str) -> None:
        numbers = step.group(1)[1:].split(".")
        if len(numbers) > MOST_DEPTH or max(map(len, numbers)) > MOST_DIGITS:
            message = f"{step.group(1)[:20]}… is no label of a step"
            self.note("unlabelled-text", message, start, start + len(line))
            return
        node = _Node("step", step.group(1), start + step.end(), start + len(line))
        _descend(self.stack[-1], node.label).children.append(node)
        self.step = node

    def more(self, start: int, line: str) -> None:
        """A line that neither begins a step nor is a tag."""
        if not line.strip():
            return
        top = self.stack[-1]
        if self.step is not None:
            self.step.end = start + len(line)
        elif top.kind == "group" and not top.children and (_REASON.match(line) or not top.reason):
            top.reason.append(line.strip())
        elif top is self.root and not top.children:
            self.preamble.append(line)
        else:
            self.note(
                "unlabelled-text",
                f"{line.strip()[:60]!r} stands under no step; put it under one",
                start,
                start + len(line),
            )

    def built(self, nodes: list[_Node]) -> Iterator[Step | Group]:
        for node in nodes:
            if node.kind == "step":
                text = self.text[node.start : node.end].strip()
                yield Step(
                    node.label, text, tuple(self.built(node.children)), (node.start, node.end)
                )
            else:
                yield self.group(node)

    def group(self, node: _Node) -> Group:
        branches = []
        wrapped = any(child.kind == "branch" for child in node.children)
        for child in node.children:
            if child.kind == "branch":
                branches.append(tuple(self.built(child.children)))
            else:
                if wrapped:
                    self.note(
                        "step-outside-branch",
                        f"{child.label or '<parallel>'} stands in <parallel> but in no <branch>",
                        child.start,
                        child.end,
                    )
                branches.append(tuple(self.built([child])))
        return Group(tuple(branches), " ".join(node.reason), (node.start, node.end))


def _descend(node: _Node, label: str) -> _Node:
    """The step among the last descendants of ``node`` whose substep ``label`` is; else ``node``."""
    while node.children:
        last = node.children[-1]
        if last.kind != "step" or not label.startswith(f"{last.label}."):
            break
        node = last
    return node


def _steps(parts: tuple[Step | Group, ...]) -> Iterator[Step]:
    for part in parts:
        if isinstance(part, Step):
            yield part
            yield from _steps(part.parts)
        else:
            for branch in part.branches:
                yield from _steps(branch)


def _groups(parts: tuple[Step | Group, ...], depth: int) -> Iterator[tuple[Group, int]]:
    for part in parts:
        if isinstance(part, Step):
            yield from _groups(part.parts, depth)
            continue
        yield part, depth
        for branch in part.branches:
            yield from _groups(branch, depth + 1)


def _render(parts: tuple[Step | Group, ...]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Step):
            yield f"{part.label}: {part.text}\n"
            yield from _render(part.parts)
            continue
        yield "<parallel>\n"
        if part.reason:
            reason = part.reason if _REASON.match(part.reason) else f"Reason: {part.reason}"
            yield f"{reason}\n"
        for branch in part.branches:
            yield "<branch>\n"
            yield from _render(branch)
            yield "</branch>\n"
        yield "</parallel>\n"
