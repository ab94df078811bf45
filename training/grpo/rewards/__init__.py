"""Reward functions for forked answers, with the signature of TRL's ``GRPOTrainer``.

Each takes lists with one entry per completion and returns as many floats. What
:class:`~..rollout.MultiverseRollout` learned from the engine comes in as keyword arguments. Bind
options with ``functools.partial``; TRL keeps the function's name.
"""

from .checked import Reward, RewardError, Schedule
from .functions import (
    RewardFunction,
    latency_reward,
    parallel_reward,
    tiny_correctness,
    validity_reward,
    where_right,
)
from .mathematics import MathReward
from .named import NAMES, make_rewards

__all__ = [
    "NAMES",
    "MathReward",
    "Reward",
    "RewardError",
    "RewardFunction",
    "Schedule",
    "latency_reward",
    "make_rewards",
    "parallel_reward",
    "tiny_correctness",
    "validity_reward",
    "where_right",
]
