"""The gates: what every LLM step must hold, checked without an LLM.

Each gate is a module; this one says which of them a stage runs. None raises, whatever the text.
"""

from __future__ import annotations

from collections.abc import Callable

from sglang_multiverse.text import Document

from ..finding import Finding
from ..outline import Outline
from .options import MODEL_OUTPUT, GateOptions

__all__ = [
    "MODEL_OUTPUT",
    "GateOptions",
    "check_block",
    "check_document",
    "check_fill",
    "check_outline",
    "flatten_costly_blocks",
    "renumber",
]


def check_outline(outline: Outline, options: GateOptions = GateOptions()) -> list[Finding]:
    """After step 1: every step once and in order, groups of two or more branches of adjacent
    steps, nesting within bounds."""
    raise NotImplementedError


def check_fill(
    source: str, outline: Outline, filled: Outline, options: GateOptions = GateOptions()
) -> list[Finding]:
    """After step 2, task 1: ``filled`` (``parse_outline`` of the LLM's text) keeps the steps and
    groups of ``outline`` and holds every sentence of ``source`` once, in order."""
    raise NotImplementedError


def check_document(
    text: str,
    *,
    source: str | None = None,
    answer: str | None = None,
    options: GateOptions = GateOptions(),
) -> list[Finding]:
    """Every gate that needs no LLM over a canonical text.

    Args:
        source: the sequential chain the text was made of; None skips coverage and content.
        answer: the final answer to be kept, bare or in a text that gives it; None takes the
            source's, where it gives one.
    """
    raise NotImplementedError


def check_block(old: str, new: str, *, options: GateOptions = GateOptions()) -> list[Finding]:
    """After step 3: the rewritten block ``new`` (from its cue or ``<Parallel>`` line to
    ``</Parallel>``) against ``old``. Both are canonical text of one outermost block."""
    raise NotImplementedError


def flatten_costly_blocks(
    document: Document, count_tokens: Callable[[str], int], margin: int = 0
) -> tuple[Document, list[Finding]]:
    """``document`` with those blocks undone that do not shorten the critical path by more than
    ``margin`` tokens, inner blocks first; a finding per block undone."""
    raise NotImplementedError


def renumber(document: Document) -> Document:
    """``document`` with outlines and paths numbered 1, 2, … and, within path 2, 2.1, 2.2, …"""
    raise NotImplementedError
