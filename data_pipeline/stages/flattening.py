"""Blocks undone: the source's own sentences in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sglang_multiverse.text import Block, Content, Document, parse_text, serialise

from ..finding import Finding
from ..gates import without_blocks
from ..recipe import Recipe
from ..record import Passage, Record, Rejection


def flatten(record: Record, recipe: Recipe, failed: Mapping[int, Rejection]) -> Record | Rejection:
    """``record`` with the source's own sentences in the place of outermost blocks, each with a
    note.

    Args:
        failed: what is wrong with a block, by its number from 0.

    Returns:
        What is wrong with the last one, where none is left and the gates require one.
    """
    if not failed:
        return record
    places = [place for place, one in enumerate(record.passages) if isinstance(one, Passage)]
    passages = list(record.passages)
    texts = {}
    for number in failed:
        passage = passages[places[number]]
        assert isinstance(passage, Passage)
        passages[places[number]] = texts[number] = passage.plain
    document = without_blocks(parse_text(record.text), texts)
    if recipe.gates.require_block and not document.blocks:
        return failed[max(failed)]
    notes = [
        Finding(
            f"flattened: {why.code}",
            f"block {number + 1}: {why.message}",
            gate=why.findings[0].gate if why.findings else "grammar",
        )
        for number, why in failed.items()
    ]
    return replace(
        record,
        text=serialise(document),
        passages=tuple(passages),
        notes=(*record.notes, *notes),
    )


def block_text(block: Block) -> str:
    """Canonical text of one outermost block, from its cue line on."""
    return serialise(Document(answer=[block]))


def said(content: Content) -> str:
    """Canonical text of a thought up to some part of it."""
    return "".join(part if isinstance(part, str) else block_text(part) for part in content)
