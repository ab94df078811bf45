"""The training mixture: from plain sequential text to forked and joined text, in eight stages."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_multiverse.dialect import MULTIVERSE, DialectSpec

#: Share of forked texts in each stage. It sums to half the number of stages, so that every item is
#: seen as often in the one form as in the other.
SHARES = (0.0, 0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.0)

#: Of these pairs of stages the second has forked what the first has sequential, and the reverse.
_PAIRS = ((0, 6), (1, 7), (2, 5), (3, 4))


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


def curriculum(examples: Sequence[Example], *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of all stages in training order; do not shuffle them.

    Every stage holds every item once, in an order of its own, a share of them forked. Over the
    eight stages every item comes four times in each form, for any number of items.
    """
    chooser = random.Random(seed)
    count = len(examples)
    forked: dict[int, set[int]] = {}
    for one, two in _PAIRS:
        chosen = set(chooser.sample(range(count), round(SHARES[one] * count)))
        forked[one], forked[two] = chosen, set(range(count)) - chosen
    for stage in range(len(SHARES)):
        order = list(range(count))
        chooser.shuffle(order)
        for index in order:
            parallel = index in forked[stage]
            example = examples[index]
            row = example.row(parallel=parallel)
            yield {**row, "id": example.id, "stage": stage, "parallel": parallel}
