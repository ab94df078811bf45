"""The reasoning chain as the LLM is shown it: numbered sentences."""

from __future__ import annotations

from ..recipe import Recipe
from ..record import Record
from ..source.sentences import Span, split_sentences
from ..teacher.call import Message


def numbered(source: str, spans: list[Span]) -> str:
    """``[1] First sentence.`` and so on, one a line; a sentence keeps its inner line breaks."""
    return "\n".join(
        f"[{number}] {source[start:end].strip()}"
        for number, (start, end) in enumerate(spans, start=1)
    )


def opening(record: Record, recipe: Recipe, task: str) -> tuple[Message]:
    """The message every chat about the whole chain begins with. What stands before ``task`` is
    the same for all of them, so that an endpoint can cache it."""
    chain = numbered(record.source, split_sentences(record.source))
    shown = recipe.prompts["chain"].fill(question=record.question, chain=chain)
    return (Message("user", f"{shown}\n\n{task}"),)
