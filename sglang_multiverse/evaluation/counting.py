"""What is reported of an arm, and of two arms that were asked the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .runs import Arm, Run, shortened
from .statistics import Estimate, difference, majority, mean, pass_at, ratio, share

#: Points of a budget curve.
POINTS = 24


def counted(arm: Arm) -> dict[str, Any]:
    """The row of one arm: estimates and counts. Runs without an answer count as wrong; figures of
    tokens and time are of those that have one."""
    right = arm.by_question(lambda run: run.correct)
    epochs = max(map(len, right.values()))
    outcomes = Counter(run.outcome for run in arm.runs)
    tokens, critical = _tokens(arm), _critical(arm)
    row: dict[str, Any] = {
        "arm": arm.name,
        "task": arm.task,
        "mode": arm.mode,
        "budget": arm.budget,
        "model": arm.model,
        "epochs": epochs,
        "accuracy": share(right).row(),
        "parallelism": ratio(tokens, critical).row(),
        "parallelism_mean_of_ratios": mean(
            _figure(arm, lambda run: run.tokens / max(run.critical_path, 1))
        ).row(),
        "net_parallelism": _net(arm).row(),
        "forked": share(_figure(arm, lambda run: run.forks > 0)).row(),
        "forks": mean(_figure(arm, lambda run: run.forks)).row(),
        "goals_not_forked": sum(run.goals_not_forked for run in arm.runs),
        "tokens": mean(tokens).row(),
        "critical_path": mean(critical).row(),
        "seconds": mean(_seconds(arm)).row(),
        "answered": outcomes["answered"],
        "cut": outcomes["cut"],
        "refused": outcomes["refused"],
        "errors": outcomes["error"],
        "not_asked": arm.not_asked,
        "reasons": _reasons(arm),
        "retries": sum(run.retries for run in arm.runs),
        "extraction": dict(Counter(run.extraction for run in arm.answered)),
    }
    if epochs > 1:
        given = arm.grouped(lambda run: (run.answer, run.correct))
        row |= {
            "pass_at": {str(k): pass_at(right, k).row() for k in _powers(epochs)},
            "majority_at": {str(k): majority(given, k).row() for k in _powers(epochs)[1:]},
        }
    return row


def _reasons(arm: Arm, most: int = 3) -> dict[str, int]:
    """Why runs were refused or failed, the most frequent first; not where a message might quote a
    question that must not be shown."""
    if arm.about.get("data", {}).get("private"):
        return {}
    return dict(Counter(shortened(run.error) for run in arm.runs if run.error).most_common(most))


def differences(arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
    """Of arms that were asked the same questions with the same budget: the second less the first,
    paired by question."""
    for one, two in combinations(arms, 2):
        same = one.about.get("data", {}).get("sha256") == two.about.get("data", {}).get("sha256")
        if one.task != two.task or one.budget != two.budget or not same:
            continue
        yield {
            "first": one.name,
            "second": two.name,
            "accuracy": _less(two, one, lambda arm: arm.by_question(lambda run: run.correct)),
            "critical_path": _less(two, one, _critical),
            "tokens": _less(two, one, _tokens),
            "seconds": _less(two, one, _seconds),
        }


@dataclass(frozen=True)
class Curve:
    """Accuracy where an answer counts only if it was done within a budget.

    Attributes:
        budgets: tokens of the critical path, or seconds.
    """

    arm: str
    budgets: tuple[float, ...]
    accuracy: tuple[Estimate, ...]


def within(arm: Arm, unit: str) -> Curve | None:
    """Accuracy against budget, ``unit`` being ``critical_path`` or ``seconds``; None without
    figures."""
    spent = sorted(value for run in arm.answered if (value := _spent(run, unit)) is not None)
    if not spent:
        return None
    last = len(spent) - 1
    budgets = sorted({spent[round(last * point / (POINTS - 1))] for point in range(POINTS)})

    def estimate(budget: float) -> Estimate:
        def right(run: Run) -> bool:
            value = _spent(run, unit)
            return run.correct and value is not None and value <= budget

        return share(arm.by_question(right))

    return Curve(arm.name, tuple(budgets), tuple(map(estimate, budgets)))


def by_length(arm: Arm, parts: int = 4) -> list[dict[str, Any]]:
    """Accuracy by length: runs in equal parts, from the shortest to the longest."""
    ordered = sorted(arm.answered, key=lambda run: run.tokens)
    rows = []
    for part in range(parts):
        some = ordered[len(ordered) * part // parts : len(ordered) * (part + 1) // parts]
        if some:
            runs: dict[str, list[float]] = {}
            for run in some:
                runs.setdefault(run.question, []).append(run.correct)
            rows.append(
                {
                    "arm": arm.name,
                    "tokens": [some[0].tokens, some[-1].tokens],
                    "accuracy": share(runs).row(),
                }
            )
    return rows


def _spent(run: Run, unit: str) -> float | None:
    if run.outcome not in ("answered", "cut"):
        return None
    return run.seconds if unit == "seconds" else run.critical_path


def _figure(arm: Arm, value: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in arm.answered:
        if (figure := value(run)) is not None:
            found.setdefault(run.question, []).append(float(figure))
    return found


def _tokens(arm: Arm) -> dict[str, list[float]]:
    return _figure(arm, lambda run: run.tokens)


def _critical(arm: Arm) -> dict[str, list[float]]:
    return _figure(arm, lambda run: run.critical_path)


def _seconds(arm: Arm) -> dict[str, list[float]]:
    return _figure(arm, lambda run: run.seconds)


def _net(arm: Arm) -> Estimate:
    """Of the runs whose server gives it."""

    def above(run: Run) -> float | None:
        return None if run.net is None else run.net * run.critical_path

    def below(run: Run) -> float | None:
        return None if run.net is None else run.critical_path

    return ratio(_figure(arm, above), _figure(arm, below))


def _less(one: Arm, two: Arm, figures: Any) -> dict[str, Any]:
    return difference(figures(one), figures(two)).row()


def _powers(most: int) -> list[int]:
    """1, 2, 4, … up to ``most``, which is the last."""
    found = [1]
    while found[-1] * 2 < most:
        found.append(found[-1] * 2)
    return [*found, most] if most > found[-1] else found
