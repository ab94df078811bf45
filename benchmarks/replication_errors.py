"""What went wrong in an answer of the replication: the first departure from the right work."""

from __future__ import annotations

from sglang_multiverse.text import Block, parse_text
from sglang_multiverse.tiny.machines import Question, grade, solution
from sglang_multiverse.tiny.task import Mode

#: In the order of the text. ``slip``: the answer is right though something before it is not.
CAUSES = (
    "right",
    "no fork",
    "wrong fork",
    "wrong path",
    "wrong conclusion",
    "wrong answer",
    "slip",
)


def cause(text: str, question: Question, mode: Mode) -> str:
    """One of :data:`CAUSES`. ``right`` is right to the last word; in sequential work, runs stand
    for paths and the comparison for the conclusion."""
    wanted = solution(question, mode)
    text = text.removesuffix("<|im_end|>")
    if text == wanted:
        return "right"
    if grade(text, question):
        return "slip"
    if mode == "parallel":
        return _of_block(text, wanted)
    compared = len(question.groups) if question.asks == "highest" else 0
    return _of_lines(text, wanted, compared)


def _of_block(text: str, wanted: str) -> str:
    blocks = parse_text(text).blocks
    (right,) = parse_text(wanted).blocks
    if not blocks:
        return "no fork"
    block: Block = blocks[0]
    if [(one.label, one.text) for one in block.outlines] != [
        (one.label, one.text) for one in right.outlines
    ]:
        return "wrong fork"
    if [path.content for path in block.paths] != [path.content for path in right.paths]:
        return "wrong path"
    if block.conclusion is None or right.conclusion is None:
        return "wrong conclusion"
    if block.conclusion.content != right.conclusion.content:
        return "wrong conclusion"
    return "wrong answer"


def _of_lines(text: str, wanted: str, lines: int) -> str:
    """Sequential work: everything before the ``lines`` of the comparison is runs."""
    found, right = text.splitlines(), wanted.splitlines()
    compared = right.index("</Think>") - lines
    for at, line in enumerate(right):
        if at >= len(found) or found[at] != line:
            if at < compared:
                return "wrong path"
            return "wrong conclusion" if at < compared + lines else "wrong answer"
    return "wrong answer"
