"""The figures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .counting import within
from .runs import Arm

_AXES = {"critical_path": "tokens of the critical path", "seconds": "seconds"}


def draw(arms: Sequence[Arm], folder: Path) -> dict[str, Path]:
    """Draw what the arms have figures for; the files by name."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        **{f"within-{unit}": _within(arms, unit) for unit in _AXES},
        "latency": _latency(arms),
    }
    written = {}
    for name, picture in drawn.items():
        if picture is not None:
            written[name] = folder / f"{name}.svg"
            picture.savefig(written[name], metadata={"Date": None})
    return written


def _within(arms: Sequence[Arm], unit: str) -> Any:
    """Accuracy against budget: a curve for each arm that had none of its own, a point for each that
    had."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 4.2), layout="constrained")
    axes = picture.subplots()
    free = [arm for arm in arms if arm.budget is None]
    empty = True
    for arm in free:
        curve = within(arm, unit)
        if curve is None:
            continue
        empty = False
        values = [100 * one.value for one in curve.accuracy]
        (line,) = axes.step(curve.budgets, values, where="post", label=arm.name)
        axes.fill_between(
            curve.budgets,
            [100 * one.low for one in curve.accuracy],
            [100 * one.high for one in curve.accuracy],
            step="post",
            alpha=0.15,
            color=line.get_color(),
            linewidth=0,
        )
    if unit == "critical_path":
        for mode in dict.fromkeys(arm.mode for arm in arms if arm.budget is not None):
            some = [arm for arm in arms if arm.budget is not None and arm.mode == mode]
            rights = [[run.correct for run in arm.runs] for arm in some]
            shares = [100 * sum(right) / len(right) for right in rights]
            budgets = [float(arm.budget or 0) for arm in some]
            axes.plot(budgets, shares, "o", label=f"{mode}, asked with the budget")
            empty = False
    if empty:
        return None
    axes.set_xlabel(f"budget: {_AXES[unit]}")
    axes.set_ylabel("right, %")
    axes.set_ylim(-2, 102)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return picture


def _latency(arms: Sequence[Arm]) -> Any:
    """Milliseconds a token of every answer against its degree of parallelism."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 4.2), layout="constrained")
    axes = picture.subplots()
    empty = True
    for arm in arms:
        some = [run for run in arm.answered if run.seconds and run.tokens and run.critical_path]
        if some:
            empty = False
            axes.plot(
                [run.tokens / run.critical_path for run in some],
                [1000 * (run.seconds or 0) / run.tokens for run in some],
                ".",
                alpha=0.5,
                label=arm.name,
            )
    if empty:
        return None
    axes.set_xlabel("tokens ÷ critical-path tokens")
    axes.set_ylabel("milliseconds a token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return picture
