"""Figure of one or more runs of ``training.grpo``:
``python -m sglang_multiverse.training.grpo_figure runs/grpo-*/log.jsonl --out reward.svg``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = {
    "reward": "reward",
    "rewards/tiny_correctness/mean": "answers right",
    "multiverse/forked": "answers that fork",
    "multiverse/critical_path": "critical path, tokens",
}


class FigureError(ValueError):
    """There is nothing to draw, or nothing to draw it with."""


def read(path: Path) -> list[dict[str, Any]]:
    """The steps of one run.

    Raises:
        FigureError: the file holds none.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise FigureError(f"{path} is no log of training.grpo: {error}") from error
    missing = sorted(key for key in PANELS if rows and key not in rows[0])
    if not rows or missing:
        raise FigureError(
            f"{path} holds no steps"
            if not rows
            else f"{path} is no log of training.grpo: its steps lack {', '.join(missing)}"
        )
    return rows


def draw(paths: Sequence[Path], out: Path) -> None:
    """Draw every run as a thin line and their mean as a thick one, a panel for each quantity.

    Raises:
        FigureError: a log cannot be read, or matplotlib is not installed.
    """
    runs = [read(path) for path in paths]
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise FigureError("figures need matplotlib: pip install matplotlib") from error
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(3.2 * len(PANELS), 2.6))
    length = min(map(len, runs))
    for axis, (key, label) in zip(axes, PANELS.items(), strict=True):
        for rows in runs:
            steps, values = [row["step"] for row in rows], [row[key] for row in rows]
            axis.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.9)
        shared = zip(*(rows[:length] for rows in runs), strict=True)
        means = [sum(row[key] for row in rows) / len(runs) for rows in shared]
        steps = [row["step"] for row in runs[0][:length]]
        axis.plot(steps, means, color="tab:blue", linewidth=2)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
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
    except FigureError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
