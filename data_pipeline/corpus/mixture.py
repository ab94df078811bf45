"""The training mixture: every item in both forms, in the order of the curriculum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_multiverse.curriculum import curriculum
from sglang_multiverse.dialect import MULTIVERSE, DialectSpec


@dataclass(frozen=True)
class Example:
    """One item in both forms."""

    id: str
    question: str
    parallel: str
    sequential: str

    def row(self, *, parallel: bool, spec: DialectSpec = MULTIVERSE) -> dict[str, Any]:
        """Prompt and completion in conversational form, as ``MultiverseSFTTrainer`` takes them."""
        prompt = spec.parallel_prompt if parallel else spec.sequential_prompt
        text = self.parallel if parallel else self.sequential
        return {
            "prompt": [{"role": "user", "content": f"{self.question} {prompt}"}],
            "completion": [{"role": "assistant", "content": text}],
        }


def as_drawn(examples: Sequence[Example], mode: str) -> Iterator[dict[str, Any]]:
    """Every item once, after the prompt it was drawn with: one stage, in any order."""
    parallel = mode == "parallel"
    for example in examples:
        row = example.row(parallel=parallel)
        yield {**row, "id": example.id, "stage": 0, "parallel": parallel}


def mixture(examples: Sequence[Example], *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of all stages in training order; do not shuffle them.

    See :func:`sglang_multiverse.curriculum.curriculum`: over its eight stages every item comes
    four times in each form.
    """
    for stage, rows in enumerate(curriculum(len(examples), seed)):
        for index, parallel in rows:
            example = examples[index]
            row = example.row(parallel=parallel)
            yield {**row, "id": example.id, "stage": stage, "parallel": parallel}
