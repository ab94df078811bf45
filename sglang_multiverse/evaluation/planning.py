"""What a suite will ask for, before anything is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .questions import GPQA_ROWS
from .suite import Suite
from .tasks import HUB, TASKS

#: Mean tokens of an answer of the published 32B model, of 187 public ones that were cut at 8,000
#: positions: a run without that limit takes more. There were none of AIME 2025: those of 2024.
MEAN_TOKENS = {
    "aime24": 6900,
    "aime25": 6900,
    "math500": 4400,
    "gpqa_diamond": 7200,
}

#: Questions of what is not at hand: on the Hub, or a file that has still to be fetched.
PUBLISHED = {"aime24": 30, "aime25": 30, "math500": 500, "ifeval": 541, "gpqa_diamond": GPQA_ROWS}


@dataclass(frozen=True)
class Planned:
    """One arm: its answers, and the tokens they may take together; None where no mean is known.

    Attributes:
        lacking: a file that it needs and that is not there.
    """

    name: str
    answers: int
    tokens: int | None
    lacking: str | None = None


def plan(suite: Suite, mean_tokens: int | None = None) -> list[Planned]:
    """The arms of ``suite``. Questions in files are read to be counted; of those on the Hub, and of
    GPQA-Diamond where its file is not there, the published number is taken.

    Args:
        mean_tokens: of an answer, in place of :data:`MEAN_TOKENS`.

    Raises:
        QuestionsError: questions cannot be read.
    """
    planned = []
    for server in suite.servers:
        for arm in suite.of_server(server):
            questions, lacking = _questions(arm)
            answers = questions * arm["epochs"]
            each = mean_tokens or MEAN_TOKENS.get(arm["task"])
            bounds = [bound for bound in (each, arm.get("budget"), arm.get("max_tokens")) if bound]
            budget = f" budget {arm['budget']}" if arm.get("budget") else ""
            name = f"{server}: {arm['task']} {arm['mode']}{budget}"
            tokens = answers * min(bounds) if each else None
            planned.append(Planned(name, answers, tokens, lacking))
    return planned


def _questions(arm: dict[str, Any]) -> tuple[int, str | None]:
    """How many an arm asks, and which file it lacks."""
    task, data, limit = arm["task"], arm.get("data"), arm.get("limit")
    absent = task == "gpqa_diamond" and not (data and Path(data).is_file())
    if absent or (task in HUB and data is None):
        lacking = (data or "gpqa_diamond.csv") if absent else None
        return min(PUBLISHED[task], limit or PUBLISHED[task]), lacking
    made = TASKS[task](**{key: value for key, value in arm.items() if key != "task"})
    return len(made.dataset), None
