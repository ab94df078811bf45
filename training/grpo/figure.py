"""Figure of one or more runs of ``training.grpo``, one log each:
``python -m sglang_multiverse.training.grpo.figure runs/grpo-*/log.jsonl --out reward.svg``.

Several are runs of one recipe with other seeds: drawn are their mean and its interval, and printed
the means of the first and last steps with theirs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

#: Panels after the reward and before these: the first reward function's mean.
_STRUCTURE = {
    "multiverse/forked": "answers that fork",
    "multiverse/critical_path": "critical path, tokens",
}
#: Student's t, 97.5 %, by degrees of freedom from 1 on; the normal's beyond.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_T_BEYOND = 2.16
#: Steps at either end whose mean is printed.
SPAN = 5


class FigureError(ValueError):
    """There is nothing to draw, or nothing to draw it with."""


class Interval(NamedTuple):
    """A mean over runs, and half the width of its 95 % interval (None: one run has none)."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.half is None else f" ± {self.half:.3f}")


def interval(values: Sequence[float]) -> Interval:
    """Mean of one value per run, with Student's 95 % interval."""
    if len(values) < 2:
        return Interval(values[0], None)
    degrees = len(values) - 1
    t = _T[degrees - 1] if degrees <= len(_T) else _T_BEYOND
    return Interval(fmean(values), t * stdev(values) / math.sqrt(len(values)))


def read(path: Path) -> list[dict[str, Any]]:
    """The steps of one run.

    Raises:
        FigureError: the file holds none.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise FigureError(f"{path} is no log of training.grpo: {error}") from error
    if not rows:
        raise FigureError(f"{path} holds no steps")
    missing = sorted({"step", "reward", *_STRUCTURE} - set(rows[0]))
    if missing:
        raise FigureError(f"{path} is no log of training.grpo: its steps lack {', '.join(missing)}")
    return rows


def panels(runs: Sequence[list[dict[str, Any]]]) -> dict[str, str]:
    """What is drawn, by its key in the logs.

    Raises:
        FigureError: the runs were rewarded for different things.
    """
    judges = {
        next((key for key in rows[0] if key.startswith("rewards/") and key.endswith("/mean")), None)
        for rows in runs
    }
    if len(judges) > 1:
        raise FigureError(
            f"the logs' first rewards differ ({', '.join(map(str, judges))}); draw runs of one "
            "recipe together"
        )
    (judge,) = judges
    if judge is None:
        return {"reward": "reward", **_STRUCTURE}
    name = judge.split("/")[1]
    label = "answers right" if name in ("tiny_correctness", "math_reward") else name
    return {"reward": "reward", judge: label, **_STRUCTURE}


def by_step(runs: Sequence[list[dict[str, Any]]], key: str) -> list[tuple[int, Interval]]:
    """Mean over runs and its interval, for the steps that all of them have a number for."""
    length = min(map(len, runs))
    found = []
    for rows in zip(*(run[:length] for run in runs), strict=True):
        values = [row.get(key) for row in rows]
        if None not in values:
            found.append((rows[0]["step"], interval(values)))
    return found


def table(runs: Sequence[list[dict[str, Any]]]) -> list[str]:
    """A line of Markdown for each panel: means of the first and last steps over all runs."""
    length = min(map(len, runs))
    span = max(1, min(SPAN, length // 2))
    count = f"{len(runs)} run" + ("s" if len(runs) > 1 else "")
    lines = [f"| {count} | first {span} steps | last {span} steps |", "|---|---|---|"]
    for key, label in panels(runs).items():
        ends = []
        for part in (slice(0, span), slice(length - span, length)):
            known = [[row[key] for row in run[part] if row[key] is not None] for run in runs]
            ends.append(str(interval([fmean(one) for one in known])) if all(known) else "–")
        lines.append(f"| {label} | {ends[0]} | {ends[1]} |")
    return lines


def draw(paths: Sequence[Path], out: Path) -> None:
    """Draw every run as a thin line, their mean as a thick one and its 95 % interval as a band, a
    panel for each quantity.

    Raises:
        FigureError: a log cannot be read, or matplotlib is not installed.
    """
    runs = [read(path) for path in paths]
    shown = panels(runs)
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise FigureError("figures need matplotlib: pip install matplotlib") from error
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.2 * len(shown), 2.6))
    for axis, (key, label) in zip(axes, shown.items(), strict=True):
        for rows in runs:
            known = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            axis.plot(*zip(*known, strict=True), color="tab:blue", alpha=0.35, linewidth=0.9)
        means = by_step(runs, key)
        steps = [step for step, _ in means]
        axis.plot(steps, [one.mean for _, one in means], color="tab:blue", linewidth=2)
        if len(runs) > 1:
            low = [one.mean - (one.half or 0.0) for _, one in means]
            high = [one.mean + (one.half or 0.0) for _, one in means]
            axis.fill_between(steps, low, high, color="tab:blue", alpha=0.15, linewidth=0)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        if all((row.get(key) or 0.0) >= 0 for rows in runs for row in rows):
            axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    # Without a date, the same logs give the same file.
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw runs of training.grpo.")
    parser.add_argument("logs", nargs="+", type=Path, help="log.jsonl of one or more runs")
    parser.add_argument("--out", type=Path, required=True, help="an .svg, .png or .pdf file")
    options = parser.parse_args()
    try:
        draw(options.logs, options.out)
        print("\n".join(table([read(path) for path in options.logs])))
    except FigureError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
