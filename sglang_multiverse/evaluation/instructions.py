"""IFEval's instructions, checked by if-verifiable."""

from __future__ import annotations

from typing import Any

from ..dialect import MULTIVERSE, Tag


def followed(output: str, about: dict[str, Any]) -> list[bool]:
    """Which of the instructions in ``about`` (``prompt``, ``instructions``, ``kwargs``) ``output``
    follows, strictly, judged by what stands after the thought."""
    from if_verifiable import IFEvalSample, evaluate_output_for_sample

    end = MULTIVERSE[Tag.END_THINK]
    tail = output[output.rfind(end) + len(end) :].strip() if end in output else output
    sample = IFEvalSample(0, about["prompt"], about["instructions"], about["kwargs"])
    results, _ = evaluate_output_for_sample("ifeval", sample, tail)
    return [bool(one.strict_pass) for one in results]
