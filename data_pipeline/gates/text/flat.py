"""Blocks undone: the text of their paths, one after another, in the place of a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sglang_multiverse.text import Block, Content, Document

from .numbering import renumber


def put(out: Content, text: str) -> None:
    """Add ``text`` to the end of ``out``."""
    if text and out and isinstance(out[-1], str):
        out[-1] += text
    elif text:
        out.append(text)


def new_line(out: Content) -> None:
    """A new line for what follows; after a block there is one already."""
    if out and isinstance(out[-1], str) and not out[-1].endswith("\n"):
        out[-1] += "\n"


def put_paths(out: Content, block: Block) -> None:
    """Add what the paths of ``block`` hold; the blocks in them stay."""
    new_line(out)
    for path in block.paths:
        for index, inner in enumerate(path.content):
            if isinstance(inner, str):
                put(out, inner if index else inner.lstrip(" "))
            else:
                out.append(inner)
        new_line(out)


def without_blocks(document: Document, texts: Mapping[int, str]) -> Document:
    """``document`` with ``texts`` in the place of outermost blocks of its thought.

    Args:
        texts: by the number of the block, from 0.
    """
    out: Content = []
    number = 0
    for part in document.thought or []:
        if isinstance(part, str):
            put(out, part)
            continue
        if number in texts:
            new_line(out)
            put(out, texts[number])
            new_line(out)
        else:
            out.append(part)
        number += 1
    return renumber(replace(document, thought=out))
