"""The last stage: blocks that depend or do not pay undone, every gate over the whole, no LLM."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from sglang_multiverse.text import parse_text, serialise

from ..finding import Finding
from ..gates import check_document, flatten_costly_blocks, renumber
from ..gates.text.located import locate
from ..recipe import Recipe
from ..record import Record, Rejection
from ..teacher.call import Call, Reply
from .flattening import flatten


def assemble(record: Record, recipe: Recipe) -> Generator[Call, Reply, Record | Rejection]:
    """Check ``record.text`` as it will be learned from."""
    yield from ()
    findings = _check(record, recipe)
    failed = _dependent(record, findings) if recipe.on_failed_rewrite == "flatten" else {}
    flat = flatten(record, recipe, failed)
    if isinstance(flat, Rejection):
        return flat
    text, notes = flat.text, list(flat.notes)
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
    assembled = replace(flat, text=text, notes=tuple(notes))
    if text != record.text:
        findings = _check(assembled, recipe)
    return Rejection.of("assemble", findings) if findings else assembled


def _check(record: Record, recipe: Recipe) -> list[Finding]:
    return check_document(
        record.text, source=record.reference, answer=record.attempt or None, options=recipe.gates
    )


def _dependent(record: Record, findings: Sequence[Finding]) -> dict[int, Rejection]:
    """The outermost blocks whose paths need one another, as ``findings`` say, by number from 0."""
    about = [
        (finding, finding.span[0])
        for finding in findings
        if finding.gate == "independence" and finding.span and finding.span_in == "text"
    ]
    blocks = locate(record.text).blocks if about else ()
    failed: dict[int, Rejection] = {}
    for finding, at in about:
        for number, block in enumerate(blocks):
            if block.span[0] <= at < block.span[1]:
                failed.setdefault(number, Rejection.of("assemble", [finding]))
    return failed
