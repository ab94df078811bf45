"""Stage 2, second task: goal and conclusion of every block, and the draft they make.

The paths' texts are there already; the LLM writes only what is new. Numbers and tags are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from sglang_multiverse.text import Block, Conclusion, Content, Document, Path, serialise
from sglang_multiverse.text import Outline as GoalLine

from ..finding import Finding
from ..gates import check_document, renumber
from ..outline import Group, Step
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Record, Rejection
from ..teacher.call import Message
from .asking import Question, Reading, Steps, ask
from .payload import number, payload

_BLOCK = re.compile(r"[ \t#]*[*_]*(?:Block[ \t]+)?(B\d+)[*_]*[ \t]*:?[*_]*[ \t]*$")
_GOAL = re.compile(r"[ \t]*[*_]*(?:Goal[ \t]+)?(\d+)[*_]*[ \t]*[:.)][*_]*[ \t]*(.*)")
_CONCLUSION = re.compile(r"[ \t]*[*_]*Conclusion[*_]*[ \t]*:[*_]*[ \t]*(.*)", re.IGNORECASE)


def frame(record: Record, recipe: Recipe) -> Steps:
    """Give ``record`` its draft: canonical text with goals and conclusions."""
    assert record.filled is not None
    document = Document(thought=_content(record.filled.parts), answer=[answer_text(record)])
    blocks = [block for block, _ in document.walk()]
    if not blocks:
        return replace(record, text=serialise(document))
    task = recipe.prompts["frame"].fill(
        question=record.question, blocks=_shown(document.blocks, iter(range(1, len(blocks) + 1)))
    )
    question = Question(
        "frame", STAGE_VERSIONS["frame"], "frame", (Message("user", task),), system="writer"
    )
    # The paths are made of the source's own sentences and still read as they did in sequence: that
    # none is lost was seen when they were placed, and their independence is the rewrite's work.
    drafted = replace(recipe.gates, independence=False)

    def read(reply: str) -> Reading[str]:
        text = payload(reply)
        frames = read_frames(text)
        findings = list(_misfits(frames, blocks))
        if findings:
            return Reading(None, findings, text)
        for block, framed in zip(blocks, frames.values(), strict=True):
            block.outlines = [GoalLine(None, f" {line}") for line in framed.goals.values()]
            block.conclusion = Conclusion([" ".join(framed.conclusion)])
        draft = serialise(renumber(document))
        findings = check_document(
            draft, source=record.reference, answer=record.attempt or None, options=drafted
        )
        return Reading(draft, findings, draft, record.reference)

    draft = yield from ask(record, recipe, question, read)
    return draft if isinstance(draft, Rejection) else replace(record, text=draft)


def answer_text(record: Record) -> str:
    """What follows the thought."""
    answer = (record.attempt or record.answer or "").strip()
    return answer if answer.startswith("Answer:") else f"Answer: {answer}"


def _content(parts: Sequence[Step | Group]) -> Content:
    """The sentences and blocks of a filled outline, with no white space at their edges."""
    content: Content = []

    def put(text: str) -> None:
        if content and isinstance(content[-1], str):
            content[-1] += text
        elif text.strip():
            content.append(text)

    def walk(parts: Sequence[Step | Group]) -> None:
        for part in parts:
            if isinstance(part, Step):
                put(part.text)
                walk(part.parts)
            else:
                paths = [Path(None, _spaced(_content(branch))) for branch in part.branches]
                content.append(Block([], paths))

    walk(parts)
    return [part.strip() if isinstance(part, str) else part for part in content]


def _spaced(content: Content) -> Content:
    """A space goes between a path's number and its text."""
    if content and isinstance(content[0], str):
        return [f" {content[0]}", *content[1:]]
    return content


def _shown(blocks: Sequence[Block], numbers: Iterator[int]) -> str:
    """Blocks as the LLM sees them, named in the order of :meth:`Document.walk`."""
    shown = []
    for block in blocks:
        name = f"B{next(numbers)}"
        lines = [f"<block {name}>"]
        for index, path in enumerate(block.paths, start=1):
            inner = [
                part.strip() if isinstance(part, str) else _shown([part], numbers)
                for part in path.content
            ]
            lines += [f"<path {index}>", *inner, f"</path {index}>"]
        shown.append("\n".join([*lines, f"</block {name}>"]))
    return "\n\n".join(shown)


@dataclass
class Framed:
    """Goal lines by number, and conclusion lines, of one block of a reply."""

    span: tuple[int, int]
    goals: dict[int, str] = field(default_factory=dict)
    conclusion: list[str] = field(default_factory=list)
    concluded: bool = False


def read_frames(text: str) -> dict[str, Framed]:
    """Read ``B1``, ``1: …``, ``Conclusion: …`` lines; a line that is none of them goes on with
    what stands before it."""
    frames: dict[str, Framed] = {}
    current: Framed | None = None
    at = 0
    for line in text.splitlines(keepends=True):
        span = (at, at + len(line.rstrip()))
        at += len(line)
        stripped = line.strip()
        if match := _BLOCK.match(line.rstrip()):
            current = frames.setdefault(match.group(1), Framed(span))
        elif current is None or not stripped:
            continue
        elif match := _CONCLUSION.match(line.rstrip()):
            current.concluded = True
            current.conclusion += [match.group(1)] if match.group(1) else []
        elif current.concluded:
            current.conclusion.append(stripped)
        elif match := _GOAL.match(line.rstrip()):
            current.goals[number(match.group(1))] = match.group(2)
        elif current.goals:
            current.goals[max(current.goals)] += f" {stripped}"
    return frames


def _misfits(frames: dict[str, Framed], blocks: Sequence[Block]) -> Iterator[Finding]:
    names = [f"B{number}" for number in range(1, len(blocks) + 1)]
    for name, block in zip(names, blocks, strict=True):
        framed = frames.get(name)
        if framed is None:
            yield Finding("missing-block", f"{name} has no goal and conclusion", gate="shape")
            continue
        wanted = list(range(1, len(block.paths) + 1))
        if list(framed.goals) != wanted:
            yield Finding(
                "path-count",
                f"{name} has paths 1 to {len(wanted)}, its goal lines are numbered "
                f"{', '.join(map(str, framed.goals)) or 'not at all'}",
                framed.span,
                "shape",
            )
        if not all(goal.strip() for goal in framed.goals.values()):
            yield Finding("empty-outline", f"a goal line of {name} is empty", framed.span, "shape")
        if not any(framed.conclusion):
            yield Finding("empty-conclusion", f"{name} has no conclusion", framed.span, "shape")
    for name, framed in frames.items():
        if name not in names:
            yield Finding("added-block", f"there is no block {name}", framed.span, "shape")
    if not list(_disorder(frames, names)):
        return
    yield Finding("block-order", f"give the blocks in the order {', '.join(names)}", gate="shape")


def _disorder(frames: dict[str, Framed], names: Sequence[str]) -> Iterator[str]:
    known = [name for name in frames if name in names]
    yield from (
        one for one, two in zip(known, sorted(known, key=names.index), strict=True) if one != two
    )
