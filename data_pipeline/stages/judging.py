"""The optional judge: an LLM says whether each path can stand without its siblings.

It sees what no rule over words can, such as a number that only another path could have found. What
becomes of a block it faults is what becomes of one whose rewrite failed.
"""

from __future__ import annotations

import re
from dataclasses import replace

from sglang_multiverse.text import Block, parse_text

from ..finding import Finding
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Record, Rejection
from ..teacher.call import Message
from .asking import Question, Reading, Steps, ask
from .payload import payload
from .rewriting import block_text, flatten, said

_VERDICT = re.compile(
    r"[ \t]*(?:[-*][ \t]+)?[*_]*(?:Path[ \t]+)?(\d+)[*_]*[ \t]*[:.)][*_]*[ \t]*(.*)"
)
_FINE = re.compile(r"(?:ok|okay|yes|independent)\b[.!]?\s*$", re.IGNORECASE)


def judge(record: Record, recipe: Recipe) -> Steps:
    """Ask about every outermost block; without ``recipe.judge`` about none."""
    if not recipe.judge:
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


def _dependent(verdicts: dict[int, str], number: int) -> Rejection | None:
    findings = [
        Finding("judged-dependent", f"path {path} of block {number} {verdict}", gate="independence")
        for path, verdict in verdicts.items()
        if not _FINE.match(verdict)
    ]
    return Rejection.of("judge", findings) if findings else None


def _question(record: Record, recipe: Recipe, block: Block, before: str, name: str) -> Question:
    task = recipe.prompts["judge"].fill(
        question=record.question, before=before.strip() or "-", block=block_text(block).strip()
    )
    version = STAGE_VERSIONS["judge"]
    return Question("judge", version, "judge", (Message("user", task),), name, system="reviewer")


def read_verdicts(text: str, count: int) -> Reading[dict[int, str]]:
    """Verdicts by path number, of ``count`` paths."""
    verdicts: dict[int, str] = {}
    for line in text.splitlines():
        match = _VERDICT.match(line.rstrip())
        if match is not None:
            verdicts[int(match.group(1))] = match.group(2).strip()
    if list(verdicts) == list(range(1, count + 1)) and all(verdicts.values()):
        return Reading(verdicts, (), text)
    message = f"give one line for each of the paths 1 to {count}, `1: ok` or what it takes"
    return Reading(None, [Finding("unreadable-verdict", message, gate="independence")], text)
