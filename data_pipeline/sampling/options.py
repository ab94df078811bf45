"""How answers are drawn and chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

#: Which of the answers that are right and pass the gates become rows: the one with the shortest
#: critical path, the most parallel one, or all that differ.
Choice = Literal["shortest", "parallel", "all"]


@dataclass(frozen=True)
class Draws:
    """What ``multiverse curate sample`` is told.

    Attributes:
        n: answers to each question.
        mode: the sentence a question ends with, that of parallel or of sequential thinking.
        system: a system message, or none.
        comparison: how an answer is compared with the reference.
        tokenizer: folder whose tokens lengths are counted in; pieces of text without one.
        extra: fields sent beside the standard ones.
    """

    n: int = 4
    choose: Choice = "shortest"
    mode: Literal["parallel", "sequential"] = "parallel"
    system: str | None = None
    comparison: Literal["mathematics", "choice", "words"] = "mathematics"
    tokenizer: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As JSON; the tokenizer by its folder's name."""
        tokenizer = None if self.tokenizer is None else self.tokenizer.name
        return {**asdict(self), "extra": dict(self.extra), "tokenizer": tokenizer}
