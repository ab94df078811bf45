"""What a block and its outlines and paths must hold, once their tags are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sglang_multiverse.dialect import Tag

from ...finding import Finding
from .located import LABEL, Span


@dataclass
class Open:
    """A tag that is open, and what has been seen directly inside.

    Attributes:
        start, inner: where the tag begins and ends.
        outlines, paths: number and place of each, for the tag that opens a block.
    """

    tag: Tag
    start: int
    inner: int
    goals: int = 0
    conclusions: int = 0
    outlines: list[tuple[str | None, Span]] = field(default_factory=list)
    paths: list[tuple[str | None, Span]] = field(default_factory=list)


def check_labelled(
    text: str, entry: Open, inner_end: int, span: Span
) -> tuple[str | None, list[Finding]]:
    """The number of an outline or path, and what is wrong with its number and text."""
    name = entry.tag.name.lower()
    inner = text[entry.inner : inner_end]
    start = entry.inner + len(inner) - len(inner.lstrip("\r\n \t"))
    label = LABEL.match(text, start, inner_end)
    body = text[label.end() if label else start : inner_end]
    findings = []
    if not body.strip():
        message = f"this {name} holds nothing; write it or drop it"
        findings.append(Finding(f"empty-{name}", message, span))
    elif label is None:
        message = f"begin the {name} with its number and a colon"
        findings.append(Finding("missing-number", message, span))
    elif not body[0].isspace():
        message = f"after the number comes a space, here {short(body)}; write the {name} anew"
        findings.append(Finding("garbled-label", message, span))
    return (label.group(1) if label else None), findings


def check_parts(entry: Open, span: Span) -> Iterator[Finding]:
    """What is missing in a block, or there too often, and its numbers."""
    outlines, paths = len(entry.outlines), len(entry.paths)
    if not entry.goals:
        yield Finding("missing-goal", "the block has no goal; begin it with one", span)
    if not paths:
        yield Finding("missing-paths", "the block has no path; write one per outline", span)
    if not entry.conclusions:
        yield Finding("missing-conclusion", "say after the last path what they come to", span)
    if entry.goals and paths and outlines != paths:
        yield Finding(
            "path-count",
            f"{outlines} outline{'s' * (outlines != 1)} but {paths} path{'s' * (paths != 1)}; "
            "write exactly one path for each outline",
            span,
        )
    elif outlines == 1 and paths == 1:
        message = "one path is not parallel; write its text without the block"
        yield Finding("single-path", message, span)
    yield from _numbers(entry)


def _numbers(entry: Open) -> Iterator[Finding]:
    """Outlines count up by one in their last figure; paths bear their outlines' numbers."""
    whole = len(entry.outlines) == len(entry.paths)
    wanted = [label for label, _ in entry.outlines]
    for found in (entry.outlines, entry.paths):
        seen: set[str] = set()
        for index, (label, span) in enumerate(found):
            if label is None:
                continue
            if label in seen:
                yield Finding("repeated-number", f"number {label} stands here again", span)
                continue
            seen.add(label)
            if found is entry.outlines:
                expected = ".".join([*(wanted[0] or "").split(".")[:-1], str(index + 1)])
            else:
                expected = (wanted[index] if whole else label) or label
            if label != expected:
                yield Finding("wrong-number", f"number {label}, expected {expected}", span)


def short(text: str) -> str:
    """``text`` on one line, quoted, cut to 40 characters."""
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else f"{text[:37]}…")
