"""What an output comes to: the one rule for which part of it is the answer.

The last ``\\boxed{…}`` after the last ``</Think>``, else the last one of the output, as some models
box in the thought and leave what follows unfinished; else what follows the last ``Answer:`` on its
line, after ``</Think>`` where there is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..dialect import MULTIVERSE, Tag

#: Which rule found the answer.
Extraction = Literal["boxed", "answer", "none"]

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
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
    boxed = _last_boxed(tail) or _last_boxed(output)
    if boxed is not None:
        return Extracted(boxed, "boxed")
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


def _last_boxed(text: str) -> str | None:
    """The content of the last box that is closed and holds something."""
    for match in reversed(list(_BOXED.finditer(text))):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            char = text[at]
            at += 2 if char == "\\" else 1
            depth += (char == "{") - (char == "}")
        inner = text[match.end() : at - 1].strip()
        if depth == 0 and inner:
            return inner
    return None
