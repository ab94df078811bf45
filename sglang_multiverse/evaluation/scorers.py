"""The scorers: is it right, and how parallel was it."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    Value,
    accuracy,
    metric,
    scorer,
    stderr,
)
from inspect_ai.solver import TaskState

from ..dialect import Tag
from ..extras import require
from ..lexer import split_tags
from .grading import Grader
from .statistics import ratio

#: Figures of the server that are copied into each score, under these names.
FIGURES = {
    "critical_path_tokens": "multiverse_critical_path_tokens",
    "forward_steps": "multiverse_forward_steps",
    "parallelism": "multiverse_parallelism",
    "net_parallelism": "multiverse_net_parallelism",
    "forks": "multiverse_forks",
    "paths": "multiverse_paths",
    "depth": "multiverse_depth",
    "e2e_latency": "e2e_latency",
    "retractions": "num_retractions",
}

_GRADER = Grader()


@scorer(metrics=[accuracy(), stderr()])
def answer() -> Scorer:
    """Right or wrong by :mod:`.grading`, with the answer, the rule that found it, and whether the
    output was cut. What the server refused is wrong, and says so."""

    async def score(state: TaskState, target: Target) -> Score:
        output = state.output
        if output.error:
            return Score(value=INCORRECT, explanation=output.error, metadata={"refused": True})
        grade = await anyio.to_thread.run_sync(
            _GRADER,
            output.completion,
            target.text,
            state.metadata.get("comparison", "mathematics"),
            output.stop_reason,
        )
        return Score(
            value=CORRECT if grade.correct else INCORRECT,
            answer=grade.answer,
            explanation="not decided in time" if grade.correct is None else None,
            metadata=grade.row(),
        )

    return score


@scorer(metrics=[accuracy(), stderr()])
def instructions() -> Scorer:
    """Whether every instruction of an IFEval prompt is followed by what stands after the thought.

    Raises:
        MissingExtra: the package ``if-verifiable`` is not installed.
    """
    require("ifeval", "if_verifiable")

    async def score(state: TaskState, target: Target) -> Score:
        from .instructions import followed

        output = state.output
        if output.error:
            return Score(value=INCORRECT, explanation=output.error, metadata={"refused": True})
        each = await anyio.to_thread.run_sync(followed, output.completion, state.metadata)
        cut = output.stop_reason in ("max_tokens", "model_length")
        about = {"extraction": "none", "truncated": cut, "followed": each}
        return Score(value=CORRECT if all(each) else INCORRECT, metadata=about)

    return score


@metric(scores="unreduced")
def degree() -> Metric:
    """Generated tokens of all runs ÷ their critical-path tokens."""

    def count(scores: list[SampleScore]) -> Value:
        above: dict[str, list[float]] = {}
        below: dict[str, list[float]] = {}
        for one in scores:
            about = one.score.metadata or {}
            if "completion_tokens" in about:
                question = str(one.sample_id)
                above.setdefault(question, []).append(about["completion_tokens"])
                below.setdefault(question, []).append(about["critical_path_tokens"])
        return ratio(above, below).value if above else 0.0

    return count


@scorer(metrics=[degree()])
def parallelism() -> Scorer:
    """The degree of parallelism of an answer, with all that the server says of it."""

    async def score(state: TaskState, target: Target) -> Score:
        about = figures(state.output)
        return Score(value=about.get("parallelism") or 1.0, metadata=about)

    return score


def _is_figure(value: Any) -> bool:
    """Whether the server sent a number that can be counted with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < 1e15


def figures(output: ModelOutput) -> dict[str, Any]:
    """The server's figures of an answer, and how many goals in it did not fork: malformed ones,
    and those beyond a bound. An answer that did not fork has its tokens for its critical path; a
    server without the plugin gives no others."""
    if output.error:
        return {}
    meta = output.metadata or {}
    found = {name: meta[key] for name, key in FIGURES.items() if _is_figure(meta.get(key))}
    if "forks" in found:
        goals = sum(tag is Tag.END_GOAL for _, tag in split_tags(output.completion))
        found["goals_not_forked"] = max(goals - int(found["forks"]), 0)
    usage = output.usage
    tokens = usage.output_tokens if usage else 0
    return {
        "completion_tokens": tokens,
        "critical_path_tokens": tokens,
        "prompt_tokens": usage.input_tokens if usage else 0,
        "seconds": output.time,
        "finish_reason": output.stop_reason,
    } | found
