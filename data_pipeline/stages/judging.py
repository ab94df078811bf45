"""The judge: an LLM says what words cannot settle.

:func:`settle` asks it whether a rewritten block says what it said, where gates have doubts;
:func:`judge` of every block whether each path can stand without its siblings, such as without a
number that only another could have found. What becomes of a block it faults is what becomes of one
whose rewrite failed.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace

from sglang_multiverse.text import Block, parse_text

from ..finding import Finding
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Record, Rejection
from ..teacher.call import Call, Message, Reply
from .asking import Question, Reading, Steps, ask
from .flattening import block_text, flatten, said
from .payload import number, payload

_VERDICT = re.compile(
    r"[ \t]*(?:[-*][ \t]+)?[*_]*(?:Path[ \t]+)?(\d+)[*_]*[ \t]*[:.)][*_]*[ \t]*(.*)"
)
_MARKS = r"[\s`*_\"'“”‘’.!]*"
#: ``ok``, also with marks around it, and with words in brackets that take nothing of it back.
_FINE = re.compile(
    rf"{_MARKS}(?:ok|okay|yes|independent|same|the same)(?![A-Za-z0-9]){_MARKS}"
    r"(?:\((?![^()]*\b(?:but|except|although|though|however|unless|apart|save|not|only)\b)[^()]*\)"
    rf"{_MARKS})?$",
    re.IGNORECASE,
)


def judge(record: Record, recipe: Recipe) -> Steps:
    """Ask about every outermost block, where ``recipe.judge`` says so."""
    if recipe.judge != "every":
        return record
    thought = parse_text(record.text).thought or []
    notes = list(record.notes)
    failed: dict[int, Rejection] = {}
    number = 0
    for index, block in enumerate(thought):
        if isinstance(block, str):
            continue
        number += 1
        question = _question(record, recipe, block, said(thought[:index]), f"B{number}")
        count = len(block.paths)

        def read(reply: str, count: int = count) -> Reading[dict[int, str]]:
            return read_verdicts(payload(reply), count)

        verdicts = yield from ask(record, recipe, question, read)
        why = verdicts if isinstance(verdicts, Rejection) else _dependent(verdicts, number)
        if why is None:
            continue
        if recipe.on_failed_rewrite == "reject":
            return why
        if recipe.on_failed_rewrite == "keep":
            notes += why.findings
        else:
            failed[number - 1] = why
    return flatten(replace(record, notes=tuple(notes)), recipe, failed)


def settle(
    record: Record, recipe: Recipe, old: str, new: str, doubts: Sequence[Finding], name: str
) -> Generator[Call, Reply, Rejection | None]:
    """What is wrong with the rewritten block ``new``, of what gates doubt in it; None if nothing.

    Args:
        old: the block as it was.
        name: the block's, in the task line.
    """
    listed = "\n".join(f"{n}: {doubt.message}" for n, doubt in enumerate(doubts, 1))
    task = recipe.prompts["doubts"].fill(
        question=record.question, old=old.strip(), new=new.strip(), doubts=listed
    )
    question = Question(
        "rewrite",
        STAGE_VERSIONS["doubts"],
        "doubts",
        (Message("user", task),),
        name,
        system="reviewer",
    )

    def read(reply: str) -> Reading[dict[int, str]]:
        return read_verdicts(payload(reply), len(doubts), "doubts")

    verdicts = yield from ask(record, recipe, question, read)
    if isinstance(verdicts, Rejection):
        return verdicts
    findings = [
        Finding("judged-unfaithful", f"{doubts[n - 1].message}: {verdict}", gate="faithful")
        for n, verdict in verdicts.items()
        if not is_fine(verdict)
    ]
    return Rejection.of("rewrite", findings) if findings else None


def _dependent(verdicts: dict[int, str], number: int) -> Rejection | None:
    findings = [
        Finding("judged-dependent", f"path {path} of block {number} {verdict}", gate="independence")
        for path, verdict in verdicts.items()
        if not is_fine(verdict)
    ]
    return Rejection.of("judge", findings) if findings else None


def _question(record: Record, recipe: Recipe, block: Block, before: str, name: str) -> Question:
    task = recipe.prompts["judge"].fill(
        question=record.question, before=before.strip() or "-", block=block_text(block).strip()
    )
    version = STAGE_VERSIONS["judge"]
    return Question("judge", version, "judge", (Message("user", task),), name, system="reviewer")


def is_fine(verdict: str) -> bool:
    """Whether a verdict finds nothing wrong."""
    return _FINE.match(verdict) is not None


def read_verdicts(text: str, count: int, what: str = "paths") -> Reading[dict[int, str]]:
    """Verdicts by number, of ``count`` paths or doubts."""
    matches = [_VERDICT.match(line.rstrip()) for line in text.splitlines()]
    verdicts = [(number(one.group(1)), one.group(2).strip()) for one in matches if one is not None]
    if [at for at, _ in verdicts] == list(range(1, count + 1)) and all(
        said for _, said in verdicts
    ):
        return Reading(dict(verdicts), (), text)
    message = f"give one line for each of the {what} 1 to {count}, `1: ok` or what is wrong"
    gate = "independence" if what == "paths" else "faithful"
    return Reading(None, [Finding("unreadable-verdict", message, gate=gate)], text)
