"""What a suite will ask for, before anything is asked."""

from __future__ import annotations

from dataclasses import dataclass

from .suite import Suite
from .tasks import TASKS

#: Mean tokens of an answer of the published 32B model, of 187 public ones that were cut at 8,000
#: tokens: a run without that limit takes more.
MEAN_TOKENS = {
    "aime24": 6900,
    "aime25": 6900,
    "math500": 4400,
    "gpqa_diamond": 7200,
}


@dataclass(frozen=True)
class Planned:
    """One arm: its answers, and the tokens they may take together; None where no mean is known."""

    name: str
    answers: int
    tokens: int | None


def plan(suite: Suite, mean_tokens: int | None = None) -> list[Planned]:
    """The arms of ``suite``. Questions are read to be counted.

    Args:
        mean_tokens: of an answer, in place of :data:`MEAN_TOKENS`.

    Raises:
        QuestionsError: questions cannot be read.
    """
    planned = []
    for server in suite.servers:
        for arm in suite.of_server(server):
            given = {key: value for key, value in arm.items() if key != "task"}
            one = TASKS[arm["task"]](**given)
            answers = len(one.dataset) * (one.epochs or 1)
            each = mean_tokens or MEAN_TOKENS.get(arm["task"])
            bounds = [bound for bound in (each, arm.get("budget"), arm.get("max_tokens")) if bound]
            budget = f" budget {arm['budget']}" if arm.get("budget") else ""
            name = f"{server}: {arm['task']} {arm['mode']}{budget}"
            planned.append(Planned(name, answers, answers * min(bounds) if each else None))
    return planned
