"""Rewards for structure and latency, and for the tiny task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trl.trainer.utils import get_callable_name

from ....tiny import task

RewardFunction = Callable[..., Sequence[Any]]


def texts_of(completions: list[Any]) -> list[str]:
    """The texts of completions that TRL gives as texts, or as conversations of one message."""
    return [one if isinstance(one, str) else str(one[0]["content"] or "") for one in completions]


def tiny_correctness(completions: list[Any], question: list[str], **kwargs: Any) -> list[float]:
    """1.0 where the answer to a question of the tiny task is right, else 0.0.

    Args:
        completions: texts, or conversations of one message each.
        question: the question without the sentence that chooses the mode, a dataset column.
    """
    return [
        float(task.grade(text, task.understand(asked)))
        for text, asked in zip(texts_of(completions), question, strict=True)
    ]


def validity_reward(
    completions: list[Any], issues: list[list[str]], finish_reason: list[str], **kwargs: Any
) -> list[float]:
    """1.0 where the text is in canonical form and came to its own end, else 0.0."""
    return [
        float(not found and ending == "stop")
        for found, ending in zip(issues, finish_reason, strict=True)
    ]


def latency_reward(
    completions: list[Any],
    critical_path: list[int],
    finish_reason: list[str],
    *,
    budget: int = 1024,
    **kwargs: Any,
) -> list[float]:
    """The share of ``budget`` tokens that the critical path leaves, in [0, 1].

    Latency is the critical path, not the token count: work moved into sibling paths is free. An
    answer cut at a limit gets 0.0. Leaving work out is short, too: see :func:`where_right`.
    """
    return [
        max(0.0, 1.0 - tokens / budget) if ending == "stop" else 0.0
        for tokens, ending in zip(critical_path, finish_reason, strict=True)
    ]


def parallel_reward(completions: list[Any], forks: list[int], **kwargs: Any) -> list[float]:
    """1.0 where the answer forked, else 0.0.

    Where the answer is right, a fifth of it in two of ten steps is the bonus of Parallel-R1
    (arXiv 2509.07980, "alternating"): ``--reward math parallel=0.2@9-10/10``.
    """
    return [float(count > 0) for count in forks]


def where_right(correctness: RewardFunction, reward: RewardFunction) -> RewardFunction:
    """``reward`` times ``correctness``, under the name of ``reward``.

    Added to correctness instead, a latency reward is what tells the answers of an all-wrong group
    apart, and the policy learns to leave parts of the work out.
    """

    def gated(**given: Any) -> list[Any]:
        right = correctness(**given)
        return [
            [(r or 0.0) * one for one in value] if isinstance(value, list) else (r or 0.0) * value
            for r, value in zip(right, reward(**given), strict=True)
        ]

    gated.__name__ = get_callable_name(reward)
    return gated
