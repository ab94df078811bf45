"""The last stage: blocks that do not pay undone, every gate over the whole, no LLM."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from sglang_multiverse.text import parse_text, serialise

from ..gates import check_document, flatten_costly_blocks, renumber
from ..recipe import Recipe
from ..record import Record, Rejection
from ..teacher.call import Call, Reply


def assemble(record: Record, recipe: Recipe) -> Generator[Call, Reply, Record | Rejection]:
    """Check ``record.text`` as it will be learned from."""
    yield from ()
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
    findings = check_document(
        text, source=record.source, answer=record.attempt or None, options=recipe.gates
    )
    if findings:
        return Rejection.of("assemble", findings)
    return replace(record, text=text, notes=tuple(notes))
