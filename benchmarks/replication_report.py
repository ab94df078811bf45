"""Tables and figures of the replication."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from replication_errors import CAUSES

#: Arm and whether the engine forks → its name in tables.
NAMES = {
    ("first", True): "stage 1 alone",
    ("ar", True): "autoregressive, continued",
    ("multiverse", True): "multiverse",
    ("curriculum", True): "multiverse, eight passes",
    ("no-mask", True): "no mask, forked",
    ("no-mask", False): "no mask, one sequence",
}
#: Bounds on the mean rounds of a question's runs.
LENGTHS = {"under 9.5": (0, 9.5), "9.5 to 10.5": (9.5, 10.5), "10.5 and more": (10.5, 99)}
Answers = list[dict[str, Any]]


def correct(answers: Answers) -> float:
    """Percent of answers that are right, whatever stood before them."""
    return 100 * statistics.mean(one["cause"] in ("right", "slip") for one in answers)


def interval(values: list[float]) -> str:
    """Half the 95 % interval of a mean over seeds (Student's t)."""
    if len(values) < 2:
        return ""
    # Quantiles of Student's t at 97.5 % for one to four degrees of freedom.
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    return f"± {t * statistics.stdev(values) / math.sqrt(len(values)):.1f}"


def by_seed(values: list[float]) -> str:
    """The mean, and in brackets the value of each seed."""
    each = f" ({' '.join(f'{one:.0f}' for one in values)})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{each}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def by_arm(served: list[dict[str, Any]]) -> dict[str, list[Answers]]:
    """The answers of each seed, by name of the arm."""
    found: dict[str, list[Answers]] = {}
    for key, name in NAMES.items():
        runs = [one["answers"] for one in served if (one["arm"], one["forking"]) == key]
        if runs:
            found[name] = runs
    return found


def accuracy(served: list[dict[str, Any]]) -> str:
    rows = []
    for name, runs in by_arm(served).items():

        def mean(field: str, runs: list[Answers] = runs) -> float:
            return statistics.mean(one[field] for run in runs for one in run)

        rows.append(
            [
                name,
                by_seed([correct(run) for run in runs]),
                interval([correct(run) for run in runs]),
                f"{mean('tokens'):.0f}",
                f"{mean('critical_path'):.0f}",
                f"{mean('forward_steps'):.0f}",
            ]
        )
    head = ["model", "right, % (by seed)", "", "tokens", "critical path", "forward steps"]
    return table(head, rows)


def by_size(served: list[dict[str, Any]]) -> str:
    """Right answers and gain by number of runs."""
    arms = by_arm(served)
    base = arms.get(NAMES["ar", True], [])
    rows = []
    for name, runs in arms.items():
        pooled = [one for run in runs for one in run]
        for count in sorted({one["runs"] for one in pooled}):
            some = [one for one in pooled if one["runs"] == count]
            alone = [one for run in base for one in run if one["runs"] == count]
            steps = statistics.mean(one["forward_steps"] for one in some)
            gain = statistics.mean(one["forward_steps"] for one in alone) / steps if alone else 0.0
            degree = sum(one["tokens"] for one in some) / sum(one["critical_path"] for one in some)
            rows.append([name, str(count), f"{correct(some):.1f}", f"{degree:.2f}", f"{gain:.2f}"])
    head = ["model", "runs", "right, %", "parallelism", "fewer steps than autoregressive, ×"]
    return table(head, rows)


def by_length(served: list[dict[str, Any]]) -> str:
    """Gain of answers that fork by the rounds of a run, which its path has as many lines of."""
    arms = by_arm(served)
    alone = [one for run in arms.get(NAMES["ar", True], []) for one in run]
    rows = []
    for name in (NAMES["multiverse", True], NAMES["curriculum", True]):
        pooled = [one for run in arms.get(name, []) for one in run]
        for label, (least, most) in LENGTHS.items():
            both = [
                [one for one in some if least <= one["rounds"] < most] for some in (pooled, alone)
            ]
            if all(both):
                forked, flat = (statistics.mean(a["forward_steps"] for a in some) for some in both)
                rows.append([name, label, f"{correct(both[0]):.1f}", f"{flat / forked:.2f}"])
    head = ["model", "rounds of a run, mean", "right, %", "fewer steps than autoregressive, ×"]
    return table(head, rows)


def errors(served: list[dict[str, Any]]) -> str:
    """Percent of answers by what went wrong first."""
    rows = []
    for name, runs in by_arm(served).items():
        pooled = [one["cause"] for run in runs for one in run]
        rows.append([name, *(f"{100 * pooled.count(one) / len(pooled):.1f}" for one in CAUSES)])
    return table(["model", *CAUSES], rows)


def exams(trained: list[dict[str, Any]]) -> dict[tuple[str, float], dict[int, list[float]]]:
    """Percent word for word by arm and rate; by step, one for each seed."""
    found: dict[tuple[str, float], dict[int, list[float]]] = {}
    for one in trained:
        for exam in one["exams"]:
            share = statistics.mean(v for k, v in exam.items() if k != "step")
            steps = found.setdefault((one["arm"], one["rate"]), {})
            steps.setdefault(exam["step"], []).append(100 * share)
    return found


def learning(trained: list[dict[str, Any]]) -> str:
    curves = exams(trained)
    stage_2 = {key: curve for key, curve in curves.items() if key[0] != "first"}
    steps = sorted({step for curve in stage_2.values() for step in curve})[1::2]
    rows = [
        [
            f"{NAMES[arm, True]}, rate {rate:g}",
            *(by_seed(curve[step]) if step in curve else "" for step in steps),
        ]
        for (arm, rate), curve in sorted(stage_2.items())
    ]
    return table(["word for word, % (by seed)", *(f"step {step}" for step in steps)], rows)


def seconds(timed: list[dict[str, Any]]) -> str:
    rows = []
    for name, runs in by_arm(timed).items():
        pooled = [one for run in runs for one in run]
        for count in sorted({one["runs"] for one in pooled}):
            some = [one["seconds"] for one in pooled if one["runs"] == count]
            rows.append([name, str(count), f"{statistics.median(some):.2f}"])
    return table(["model, one question at a time", "runs", "seconds, median"], rows)


def budgets(served: list[dict[str, Any]], field: str, label: str, path: Path) -> None:
    """The share of answers that are right within a budget of ``field``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4))
    for name, runs in by_arm(served).items():
        pooled = [one for run in runs for one in run]
        most = max(one[field] for one in pooled)
        at = [most * i / 200 for i in range(201)]
        right = [
            100
            * statistics.mean(
                one["cause"] in ("right", "slip") and one[field] <= budget for one in pooled
            )
            for budget in at
        ]
        axes.plot(at, right, label=name)
    axes.set(xlabel=label, ylabel="answers right within it, %", ylim=(0, 100))
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def report(found: dict[str, Any], figures: Path) -> str:
    """All tables as Markdown; two figures are drawn into ``figures``."""
    figures.mkdir(parents=True, exist_ok=True)
    tables = (accuracy, by_size, by_length, errors)
    parts = [one(found["served"]) for one in tables if found["served"]]
    parts += [learning(found["trained"])]
    budgets(
        found["served"],
        "critical_path",
        "budget: tokens on the critical path",
        figures / "replication-budget.svg",
    )
    if found["timed"]:
        parts.append(seconds(found["timed"]))
        budgets(
            found["timed"],
            "seconds",
            "budget: seconds, one question at a time",
            figures / "replication-seconds.svg",
        )
    return "\n".join(parts)
