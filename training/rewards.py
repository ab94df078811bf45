"""Reward functions for forked answers, with the signature of TRL's ``GRPOTrainer``.

Each takes lists with one entry per completion and returns as many floats. What
:class:`~sglang_multiverse.training.rollout.MultiverseRollout` learned from the engine comes in as
keyword arguments. Bind options with ``functools.partial``; TRL keeps the function's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trl.trainer.utils import get_callable_name

from ..tiny import task

RewardFunction = Callable[..., list[float]]


def tiny_correctness(completions: list[Any], question: list[str], **kwargs: Any) -> list[float]:
    """1.0 where the answer to a question of the tiny task is right, else 0.0.

    Args:
        completions: texts, or conversations of one message each.
        question: the question without the sentence that chooses the mode, a dataset column.
    """
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [
        float(task.grade(text, task.understand(asked)))
        for text, asked in zip(texts, question, strict=True)
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


def where_right(correctness: RewardFunction, reward: RewardFunction) -> RewardFunction:
    """``reward`` times ``correctness``, under the name of ``reward``.

    Added to correctness instead, a latency reward is what tells the answers of an all-wrong group
    apart, and the policy learns to leave parts of the work out.
    """

    def gated(**given: Any) -> list[float]:
        right = correctness(**given)
        return [r * value for r, value in zip(right, reward(**given), strict=True)]

    gated.__name__ = get_callable_name(reward)
    return gated
