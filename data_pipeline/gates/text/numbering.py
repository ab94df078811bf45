"""Numbers are ours: whatever the LLM numbered, :func:`renumber` makes right."""

from __future__ import annotations

from dataclasses import replace

from sglang_multiverse.text import Block, Content, Document


def renumber(document: Document) -> Document:
    """``document`` with outlines and paths numbered 1, 2, … and, within path 2, 2.1, 2.2, …

    Every block starts anew at 1. Texts, gaps and what is no node stay as they are.
    """
    return replace(
        document,
        head=_content(document.head, ""),
        thought=None if document.thought is None else _content(document.thought, ""),
        answer=_content(document.answer, ""),
    )


def _content(content: Content, prefix: str) -> Content:
    return [part if isinstance(part, str) else _block(part, prefix) for part in content]


def _block(block: Block, prefix: str) -> Block:
    conclusion = block.conclusion
    if conclusion is not None:
        conclusion = replace(conclusion, content=_content(conclusion.content, prefix))
    return replace(
        block,
        outlines=[
            replace(outline, label=f"{prefix}{number}", text=_spaced(outline.text))
            for number, outline in enumerate(block.outlines, start=1)
        ],
        paths=[
            replace(
                path,
                label=f"{prefix}{number}",
                content=_spaced_content(_content(path.content, f"{prefix}{number}.")),
            )
            for number, path in enumerate(block.paths, start=1)
        ],
        conclusion=conclusion,
    )


def _spaced(text: str) -> str:
    """A number that is new needs a space between its colon and the text."""
    return text if not text or text[0].isspace() else f" {text}"


def _spaced_content(content: Content) -> Content:
    if content and isinstance(content[0], str):
        return [_spaced(content[0]), *content[1:]]
    return content
