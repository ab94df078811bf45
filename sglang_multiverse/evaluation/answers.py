"""What an output comes to: the one rule for which part of it is the answer.

The last ``\\boxed{…}`` after the last ``</Think>``, else the last one of the output, as some models
box in the thought and leave what follows unfinished; else what follows the last ``Answer:`` on its
line, after ``</Think>`` where there is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..data_pipeline.gates.meaning.answer import boxed
from ..dialect import MULTIVERSE, Tag

#: Which rule found the answer.
Extraction = Literal["boxed", "answer", "none"]

_ANSWER = re.compile(r"\banswer[ \t]*[*_]*:[*_]*[ \t]*([^\n]*)", re.IGNORECASE)
_DOLLARS = re.compile(r"^(?:\\\(|\\\[|\$+)\s*(.*?)\s*(?:\\\)|\\\]|\$+)$")
_END_OF_TURN = re.compile(r"<\|[\w ]+\|>|</s>")


@dataclass(frozen=True)
class Extracted:
    """The answer of an output and the rule that found it; None by no rule."""

    answer: str | None
    rule: Extraction


def extract(output: str) -> Extracted:
    """The answer of ``output``. Never raises."""
    end = MULTIVERSE[Tag.END_THINK]
    tail = output[output.rfind(end) + len(end) :] if end in output else output
    box = boxed(tail, 0, len(tail)) or boxed(output, 0, len(output))
    if box is not None:
        return Extracted(box.text, "boxed")
    for line in reversed(_ANSWER.findall(tail)):
        said = _END_OF_TURN.sub("", line).strip().strip("*_").strip()
        said = _DOLLARS.sub(r"\1", said.rstrip(".").strip())
        if said:
            return Extracted(said, "answer")
    return Extracted(None, "none")


def is_cut(output: str, finish_reason: str | None = None) -> bool:
    """Whether ``output`` ended before it was done: by its finish reason where one is known, else
    by a thought that was opened and not closed."""
    if finish_reason is not None:
        return finish_reason in ("length", "max_tokens", "model_length")
    begin, end = MULTIVERSE[Tag.THINK], MULTIVERSE[Tag.END_THINK]
    return begin in output and end not in output
