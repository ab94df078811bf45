"""The autoregressive twin, against a line filter that knows nothing of trees."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable

import sglang_multiverse.flatten
from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.flatten import flatten, flatten_text
from sglang_multiverse.text import parse_text, serialise
from sglang_multiverse.tiny.solution import solution
from sglang_multiverse.tiny.task import ALL_KINDS, generate
from tests.conftest import Rows


def by_lines(text: str) -> str:
    """What the twin of a canonical text is, read off its lines."""
    kept: list[str] = []
    skipping = ""
    opened = False  # the line before opened a path
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if skipping:
            skipping = "" if line == skipping else skipping
            continue
        if line in ("<Goal>", "<Conclusion>"):
            skipping = line.replace("<", "</")
            continue
        if line in ("<Parallel>", "</Parallel>", "<Path>", "</Path>"):
            opened = line == "<Path>"
            continue
        cue = MULTIVERSE.cue.rstrip("\n")
        if line.endswith(cue) and lines[number + 1] == "<Parallel>":
            line = line.removesuffix(cue).rstrip(" ")
            if not line:
                continue
        kept.append(re.sub(r"^[\d.]+: *", "", line) if opened else line)
        opened = False
    return "\n".join(kept)


def test_the_example_in_the_docstring_holds() -> None:
    result = doctest.testmod(sglang_multiverse.flatten)
    assert result.attempted == 4
    assert not result.failed


def test_worked_answers_lose_their_blocks_and_nothing_else() -> None:
    problems = generate(3, "test", ALL_KINDS)
    deep = 0
    for _ in range(60):
        text = solution(next(problems), "parallel")
        twin = flatten_text(text)
        assert twin == by_lines(text)
        document = parse_text(twin)
        assert document.canonical
        assert not document.blocks
        assert flatten_text(twin) == twin
        deep += max((depth for _, depth in parse_text(text).walk()), default=0) > 1
    assert deep >= 3


def test_real_traces_lose_their_blocks_and_nothing_else(traces: Callable[[str], Rows]) -> None:
    for row in traces("wellformed"):
        document = parse_text(row["output"])
        if document.canonical and all(b.cue is None for b, _ in document.walk()):
            assert flatten_text(row["output"]) == by_lines(row["output"]), row["id"]


def test_texts_without_blocks_and_broken_ones_come_through(traces: Callable[[str], Rows]) -> None:
    for row in traces("plain"):
        assert flatten_text(row["output"]) == row["output"]
    for row in traces("malformed"):
        twin = flatten(parse_text(row["output"]))
        assert not twin.blocks
        assert len(serialise(twin)) <= len(row["output"])
