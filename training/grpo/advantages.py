"""Which tokens learn from what: answers that are left out, tags, and advantages of paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

#: What becomes of an answer that is not in canonical form. ``advantage``: no reward, and its
#: group is compared without it. ``loss``: nor do its tokens count in the loss, nor in its KL.
StructuralFilter = Literal["none", "advantage", "loss"]


def token_mask(
    env_mask: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    left_out: Sequence[bool],
    tags: frozenset[int],
) -> list[list[int]]:
    """``env_mask`` without the answers that are ``left_out`` and the tokens that are ``tags``."""
    return [
        [0] * len(ids)
        if out
        else [int(on and token not in tags) for on, token in zip(mask, ids, strict=True)]
        for mask, ids, out in zip(env_mask, completion_ids, left_out, strict=True)
    ]


def deviations(
    values: Sequence[Sequence[Sequence[float] | None]],
    weights: Sequence[float],
    paths: Sequence[int],
) -> list[list[float]]:
    """For each completion, by how much the reward of each of its paths is over their mean.

    Args:
        values: per reward function and completion, one value per path or None.
        weights: of the reward functions.
        paths: paths of each completion.
    """
    made = [[0.0] * count for count in paths]
    for by_completion, weight in zip(values, weights, strict=True):
        for row, one in zip(made, by_completion, strict=True):
            if one:
                mean = sum(one) / len(one)
                for at, value in enumerate(one):
                    row[at] += weight * (value - mean)
    return made


def spread_of(row: Sequence[float]) -> float:
    """The variance of a completion's paths, 0 without any."""
    return sum(value * value for value in row) / len(row) if row else 0.0


def path_advantages(
    rewards: Tensor,
    spread: Tensor,
    mine: slice,
    paths: Sequence[Sequence[float]],
    spans: Sequence[Sequence[Sequence[int]]],
    length: int,
    *,
    generations: int,
    scale: str,
) -> Tensor:
    """Advantages of tokens, shape ``(local completions, length)``.

    A token outside of paths has its completion's advantage; one in a path has that of a completion
    whose reward is the path's (of nested paths, the innermost's). With path values that are all
    equal this is TRL's advantage.

    Args:
        rewards: weighted sums of all processes' completions, shape ``(N,)``; NaN: left out.
        spread: variances of their paths, shape ``(N,)``.
        mine: this process's completions.
        paths: of these, the deviations of their paths.
        spans: of these, ``[start, end)`` of their paths in text order.
        scale: ``group``, ``batch`` or ``none``, as ``scale_rewards`` of ``GRPOConfig``.
    """
    groups = rewards.view(-1, generations)
    mean = groups.nanmean(dim=1).repeat_interleave(generations)
    if scale == "batch":
        between = nanstd(rewards).square().expand_as(rewards)
        within = spread[~rewards.isnan()].mean().expand_as(rewards)
    else:
        between = nanstd(groups, dim=1).square().repeat_interleave(generations)
        held = torch.where(groups.isnan(), torch.nan, spread.view(-1, generations))
        within = held.nanmean(dim=1).repeat_interleave(generations)
    deviation = 1.0 if scale == "none" else (between + within).sqrt() + 1e-4
    over = rewards - mean
    per_token = over[mine].unsqueeze(1).repeat(1, length)
    for row, own, places in zip(per_token, paths, spans, strict=True):
        base = row[0].clone()
        for value, (start, end) in zip(own, places, strict=True):  # inner paths come later
            row[start:end] = base + value
    if isinstance(deviation, Tensor):
        per_token = per_token / deviation[mine].unsqueeze(1)
    return per_token.nan_to_num(nan=0.0)
