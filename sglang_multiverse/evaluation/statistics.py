"""Means with standard errors and intervals, where runs of one question are not independent.

A run is one answer to one question. Runs are grouped by question everywhere, and standard errors
are over questions: of two hundred questions asked four times each there are two hundred groups.
Dictionaries map a question to the values of its runs.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

Runs = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Estimate:
    """A figure with what is known of its error.

    Attributes:
        value: the figure; nan where there is nothing to count.
        se: standard error, clustered by question; nan for a single question.
        low, high: ends of the 95 % interval.
        questions, runs: how many were counted.
    """

    value: float
    se: float
    low: float
    high: float
    questions: int
    runs: int

    def row(self) -> dict[str, Any]:
        """JSON: nan becomes null."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }


_NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)


def share(runs: Runs) -> Estimate:
    """Share of runs that are 1 among 0 and 1, each run counting once.

    The interval is Wilson's for the effective number of runs, that is the number of independent
    ones that would have this standard error (Korn and Graubard), with a quantile of Student's t for
    the number of questions; so it never leaves [0, 1]. Where all runs are alike, and so their
    standard error is 0, it is that of as many runs as there are questions.
    """
    plain = mean(runs)
    if plain.questions == 0:
        return _NOTHING
    p, spread = plain.value, plain.value * (1 - plain.value)
    counted = float(plain.questions)
    if spread > 0 and plain.se > 0:
        counted = min(spread / plain.se**2, float(plain.runs))
    t = student(max(plain.questions - 1, 1))
    centre = (p + t**2 / (2 * counted)) / (1 + t**2 / counted)
    half = t / (1 + t**2 / counted) * math.sqrt(spread / counted + (t / (2 * counted)) ** 2)
    low = 0.0 if p == 0 else max(centre - half, 0.0)
    high = 1.0 if p == 1 else min(centre + half, 1.0)
    return replace(plain, low=low, high=high)


def mean(runs: Runs) -> Estimate:
    """Mean over runs, each counting once; the interval is value ± t · se."""
    return ratio(runs, {question: [1.0] * len(values) for question, values in runs.items()})


def ratio(above: Runs, below: Runs) -> Estimate:
    """Sum of ``above`` ÷ sum of ``below``, with the standard error of the delta method, clustered
    by question."""
    above = {question: values for question, values in above.items() if values}
    groups = len(above)
    total = sum(sum(below[question]) for question in above)
    runs = sum(map(len, above.values()))
    if not groups or total == 0:
        return _NOTHING
    value = sum(map(sum, above.values())) / total
    if groups == 1:
        return Estimate(value, math.nan, math.nan, math.nan, groups, runs)
    squares = sum(
        (sum(values) - value * sum(below[question])) ** 2 for question, values in above.items()
    )
    se = math.sqrt(groups / (groups - 1) * squares) / abs(total)
    t = student(groups - 1)
    return Estimate(value, se, value - t * se, value + t * se, groups, runs)


def difference(one: Runs, two: Runs) -> Estimate:
    """Mean of ``one`` − mean of ``two`` over the questions that both have, paired by question;
    each question counts once."""
    both = [question for question in one if one[question] and two.get(question)]
    means = {
        question: [
            sum(one[question]) / len(one[question]) - sum(two[question]) / len(two[question])
        ]
        for question in both
    }
    runs = sum(len(one[question]) + len(two[question]) for question in both)
    return replace(mean(means), runs=runs)


def pass_at(runs: Runs, k: int) -> Estimate:
    """Chance that at least one of ``k`` runs of a question is right, without bias (Chen et al.,
    2021); over questions with at least ``k`` runs, each counting once. Of one run it is their
    share."""
    if k == 1:
        return share(runs)
    chances: dict[str, list[float]] = {}
    for question, values in runs.items():
        n, right = len(values), round(sum(values))
        if n >= k:
            chances[question] = [1 - math.comb(n - right, k) / math.comb(n, k)]
    return share(chances)


#: Choices of k runs over which a majority is averaged; of more than that many so many are drawn.
CHOICES = 5000


def majority(answers: Mapping[str, Sequence[tuple[str | None, bool]]], k: int) -> Estimate:
    """Share of questions whose most frequent answer among ``k`` runs is right, averaged over every
    choice of ``k`` of the runs.

    Args:
        answers: answer and whether it is right; right answers are one, however they are written,
            and a run without an answer does not vote. Of a tie each answer has its part.
    """
    shares: dict[str, list[float]] = {}
    for question, given in answers.items():
        if len(given) < k:
            continue
        votes = [
            None if answer is None else ("right", "") if right else ("wrong", answer)
            for answer, right in given
        ]
        chosen: Iterable[Sequence[tuple[str, str] | None]] = combinations(votes, k)
        if math.comb(len(votes), k) > CHOICES:
            rng = random.Random(question)
            chosen = (rng.sample(votes, k) for _ in range(CHOICES))
        parts = [_part(some) for some in chosen]
        shares[question] = [sum(parts) / len(parts)]
    return share(shares)


def _part(votes: Sequence[tuple[str, str] | None]) -> float:
    """The part of a majority that the right answer has."""
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    leaders = [vote for vote, count in counts.items() if count == most]
    return sum(vote[0] == "right" for vote in leaders) / max(len(leaders), 1)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with ``freedom`` degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
