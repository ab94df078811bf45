"""The last stage: blocks that depend or do not pay undone, every gate over the whole, no LLM."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from sglang_multiverse.text import parse_text, serialise

from ..finding import Finding
from ..gates import check_document, flatten_costly_blocks, renumber
from ..gates.text.located import locate
from ..recipe import Recipe
from ..record import Record, Rejection
from ..teacher.call import Call, Reply
from .rewriting import flatten


def assemble(record: Record, recipe: Recipe) -> Generator[Call, Reply, Record | Rejection]:
    """Check ``record.text`` as it will be learned from."""
    yield from ()
    if recipe.on_failed_rewrite == "flatten":
        flat = _without_dependent(record, recipe)
        if isinstance(flat, Rejection):
            return flat
        record = flat
    text, notes = record.text, list(record.notes)
    if recipe.benefit is not None:
        document, undone = flatten_costly_blocks(
            parse_text(text), recipe.count_tokens, recipe.benefit
        )
        if undone:
            text = serialise(renumber(document))
            notes += undone
            if recipe.gates.require_block and not document.blocks:
                return Rejection(
                    "assemble",
                    "no-benefit",
                    "no block shortens the critical path",
                    findings=tuple(notes),
                )
    findings = _check(record, text, recipe)
    if findings:
        return Rejection.of("assemble", findings)
    return replace(record, text=text, notes=tuple(notes))


def _check(record: Record, text: str, recipe: Recipe) -> list[Finding]:
    return check_document(
        text, source=record.source, answer=record.attempt or None, options=recipe.gates
    )


def _without_dependent(record: Record, recipe: Recipe) -> Record | Rejection:
    """``record`` without the blocks whose paths a gate finds to need one another."""
    blocks = locate(record.text).blocks
    failed: dict[int, Rejection] = {}
    for finding in _check(record, record.text, recipe):
        if finding.gate != "independence" or finding.span is None or finding.span_in != "text":
            continue
        at = finding.span[0]
        for number, block in enumerate(blocks):
            if block.span[0] <= at < block.span[1]:
                failed.setdefault(number, Rejection.of("assemble", [finding]))
    return flatten(record, recipe, failed)
