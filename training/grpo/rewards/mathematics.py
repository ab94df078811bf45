"""Whether an answer is mathematically what the dataset says it is."""

from __future__ import annotations

import re
from typing import Any

from ....extras import require
from .functions import texts_of

#: Columns that hold the reference where none is named, the first that is there.
ANSWER_COLUMNS = ("answer", "solution", "final_answer", "ground_truth")
#: Seconds of processor time for one pair.
SECONDS = 10.0

_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


class MathReward:
    """1.0 where the final answer equals the reference by math-verify, else 0.0.

    Of the completion only an answer that it names counts: boxed, or behind ``Answer:``, "the
    answer is" or ``####``. The reference is bare, or a text that names it. A pair that takes over
    ``seconds`` counts as wrong; a row without a reference is not scored.

    Args:
        column: of the reference; by default the first of :data:`ANSWER_COLUMNS` that is there.

    Raises:
        MissingExtra: math-verify is not installed.
    """

    __name__ = "math_reward"

    def __init__(self, column: str | None = None, seconds: float = SECONDS):
        require("train", "math_verify", "rapidfuzz")
        self.column = column
        self.seconds = seconds

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of which the dataset must have one."""
        return (self.column,) if self.column else ANSWER_COLUMNS

    def __call__(self, completions: list[Any], **given: Any) -> list[float | None]:
        column = next(name for name in self.columns if name in given)
        return [
            self.grade(text, reference)
            for text, reference in zip(texts_of(completions), given[column], strict=True)
        ]

    def grade(self, text: str, reference: Any) -> float | None:
        from ....data_pipeline.gates.meaning.equivalence import EQUIVALENCE, Verdict

        if reference is None or not str(reference).strip():
            return None
        found = named_answer(text)
        if found is None:
            return 0.0
        wanted = named_answer(str(reference)) or str(reference).strip()
        return float(EQUIVALENCE(wanted, found, timeout=self.seconds) is Verdict.SAME)


def named_answer(text: str) -> str | None:
    """The last answer that a text names, None where it names none."""
    from ....data_pipeline.gates.meaning.answer import final_answer

    named = final_answer(text)
    hashed = list(_HASHES.finditer(text))
    if hashed and (named is None or hashed[-1].start() > named.span[0]):
        return hashed[-1][1]
    return named.text if named else None
