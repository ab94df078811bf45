"""What the benchmarks print without ``--json``: the same results, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

_NAMES = {"stock": "stock", "client": "client", "plugin": "plugin", "multiverse": "backend"}


def steps(result: dict[str, Any]) -> list[Table]:
    table = Table(title=f"forward steps, --attention-backend of the {result['backend']} server")
    for name in ("texts at once", "answers", "forks"):
        table.add_column(name, justify="right")
    for name in ("steps ÷ critical path: mean", "max", "steps ÷ tokens: mean"):
        table.add_column(name, justify="right")
    for batch, one in result["batches"].items():
        table.add_row(
            batch,
            f"{one['answers']}",
            f"{one['forks']}",
            f"{one['mean_steps_per_critical_path']:.4f}",
            f"{one['max_steps_per_critical_path']:.4f}",
            f"{one['mean_steps_per_token']:.4f}",
        )
    return [table]


def serve(result: dict[str, Any]) -> list[Table]:
    table = Table(title=f"seconds for the same texts, median of {result['repeats']} (low-high)")
    table.add_column("text")
    table.add_column("degree", justify="right")
    for name in _NAMES.values():
        table.add_column(name, justify="right")
    for name in ("÷ stock", "÷ client", "ideal", "CPU: ÷ stock", "ideal"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        table.add_row(
            row["name"],
            f"{row['degree']:.2f}",
            *(_seconds(row, way) for way in _NAMES),
            f"{row['speedup_vs_stock']:.2f}×",
            _times(row["speedup_vs_client"]),
            f"{row['ideal']:.2f}×",
            f"{row['cpu_speedup_vs_stock']:.2f}×",
            f"{row['cpu_ideal']:.2f}×",
        )
    cost = Table(title="a decode step of stock SGLang here")
    cost.add_column("rows", justify="right")
    cost.add_column("ms", justify="right")
    for rows, seconds in result["step_seconds"].items():
        cost.add_row(rows, f"{1000 * seconds:.1f}")
    return [table, cost]


def _times(ratio: float | None) -> str:
    return "not measured" if ratio is None else f"{ratio:.2f}×"


def _seconds(row: dict[str, Any], way: str) -> str:
    seconds, spread = row["seconds"][way], row["spread"][way]
    if seconds is None:
        return "not measured"
    return f"{seconds:.2f} ({spread[0]:.2f}-{spread[1]:.2f})"


def fork(result: dict[str, Any]) -> list[Table]:
    table = Table(title=f"paths of {result['path_tokens']} tokens; steps: milliseconds (CPU)")
    table.add_column("")
    for row in result["rows"]:
        table.add_column(f"{row['paths']} paths", justify="right")
    for name in ("decode_step", "fork", "join", "retraction", "retraction_stock"):
        table.add_row(
            {
                "decode_step": "a decode step of one row",
                "fork": "fork",
                "join": "join",
                "retraction": "go on after a retraction",
                "retraction_stock": "the same, stock, no forks",
            }[name],
            *(_span(row[name]) for row in result["rows"]),
        )
    for name, what in (
        ("second_turn", "second turn"),
        ("second_turn_stock", "the same, stock, no forks"),
    ):
        table.add_row(what, *(_turn(row[name]) for row in result["rows"]))
    return [table]


def _span(one: dict[str, Any]) -> str:
    cpu = "" if one["cpu_ms"] is None else f" ({one['cpu_ms']:.1f})"
    return f"{one['steps']:g}: {one['ms']:.1f}{cpu}"


def _turn(one: dict[str, Any]) -> str:
    cached = f"{one['cached_tokens']} of {one['prompt_tokens']} cached"
    return f"{one['steps']:g}: {one['ms']:.1f}, {cached}"


def tax(result: dict[str, Any]) -> list[Table]:
    table = Table(
        title=f"plain traffic, with the plugin ÷ without: {result['ratio']:.3f} "
        f"({result['low']:.3f}-{result['high']:.3f})"
    )
    for name in ("rows", "time ratio", "95 %", "CPU ratio", "95 %", "stock, ms/step"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        table.add_row(
            f"{row['batch']}",
            f"{row['ratio']:.3f}",
            f"{row['low']:.3f}-{row['high']:.3f}",
            f"{row['cpu_ratio']:.3f}",
            f"{row['cpu_low']:.3f}-{row['cpu_high']:.3f}",
            f"{row['step_ms']['stock']:.1f}",
        )
    return [table, *hooks(result.get("hooks", ()))]


def hooks(rows: Sequence[dict[str, Any]]) -> list[Table]:
    if not rows:
        return []
    table = Table(title="Python of the hooks, microseconds a step")
    table.add_column("batch")
    for name in ("all", "a row", "dearest"):
        table.add_column(name, justify="right")
    for row in rows:
        name, one = next(iter(row["hooks"].items()))
        table.add_row(
            row["case"],
            f"{row['us_per_step']:.0f}",
            f"{row['us_per_step'] / row['rows']:.1f}",
            f"{name}: {one['us']:.0f}",
        )
    return [table]
