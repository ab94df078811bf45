"""The autoregressive twin: one text without blocks, the paths' text kept in order.

Tags, goals, conclusions, cue lines and path labels go; what the paths say stays, one path after
another. Training on it, causally, is the baseline that parallel training is compared with, and the
text that curated traces are compared with their source by.

>>> outlines = "<Outline>\\n1: P\\n</Outline>\\n<Outline>\\n2: Q\\n</Outline>"
>>> goal = f"<Parallel>\\n<Goal>\\n{outlines}\\n</Goal>\\n"
>>> paths = "<Path>\\n1: One.\\n</Path>\\n<Path>\\n2: Two.\\n</Path>\\n"
>>> flatten_text(f"A.\\n{goal}{paths}<Conclusion>\\nBoth.\\n</Conclusion>\\n</Parallel>\\nB.")
'A.\\nOne.\\nTwo.\\nB.'
"""

from __future__ import annotations

from .dialect import MULTIVERSE, DialectSpec
from .text import Content, Document, parse_text, serialise


def flatten(document: Document, spec: DialectSpec = MULTIVERSE) -> Document:
    """``document`` without blocks. ``<Think>`` and ``</Think>`` stay, as do its gaps and what is
    no node of the tree (stray tags of a malformed text)."""
    return Document(
        thought=None if document.thought is None else _flat(document.thought, spec),
        answer=_flat(document.answer, spec),
        head=_flat(document.head, spec),
        closed=document.closed,
        gaps=dict(document.gaps),
    )


def flatten_text(text: str, spec: DialectSpec = MULTIVERSE) -> str:
    """:func:`flatten` of a text. A text without blocks comes back byte for byte."""
    document = parse_text(text, spec)
    return serialise(flatten(document, spec), spec) if document.blocks else text


def _flat(content: Content, spec: DialectSpec) -> Content:
    text = "".join(_pieces(content, spec))
    return [text] if text else []


def _pieces(content: Content, spec: DialectSpec) -> list[str]:
    """The texts of ``content``, each path on lines of its own."""
    pieces: list[str] = []

    def put(text: str) -> None:
        if text:
            pieces.append(text)

    for part in content:
        if isinstance(part, str):
            put(part)
            continue
        if part.cue is None and pieces:
            pieces[-1] = pieces[-1].rstrip(" ")  # the cue may end a line of text
        _break(pieces)
        for path in part.paths:
            put("".join(_pieces(path.content, spec)).lstrip(" "))
            _break(pieces)
    return pieces


def _break(pieces: list[str]) -> None:
    if pieces and not pieces[-1].endswith("\n"):
        pieces.append("\n")
