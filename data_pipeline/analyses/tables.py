"""What an analysis found, for a reader at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from .parallelism import PERCENTILES, SIZES


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines; the first column is text, the others are numbers."""
    made = Table(box=None, header_style="bold", padding=(0, 1))
    for at, header in enumerate(headers):
        made.add_column(header, justify="right" if at else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(str, row))
    return made


def show_parallelism(console: Console, row: dict[str, Any]) -> None:
    """Print :meth:`.parallelism.Statistics.row`."""
    console.print(
        f"[bold]{row['texts']:,}[/] texts: {row['well_formed']:,} well formed, "
        f"{row['with_blocks']:,} with blocks, {row['bad_rows']:,} unreadable; "
        f"tokens by {row['tokens_by']}"
    )
    if not row["texts"]:
        return
    groups = [("all", row["all"]), ("with blocks", row["forked"])]
    console.print(
        table(
            ("", "texts", "mean", "95 %", "micro", "median", "max", "> 1"),
            [
                (f"{measure}, {name}", f"{group['texts']:,}", *_ratio(group, measure))
                for measure in ("degree", "net")
                for name, group in groups
                if group
            ],
        )
    )
    every = row["all"]
    console.print(
        f"mean tokens {every['tokens_mean']:,.0f}, on the critical path "
        f"{every['critical_path_tokens_mean']:,.0f}; {every['share_in_paths']:.1%} of the tokens "
        "of a text are in paths"
    )
    if row["blocks"]:
        _show_blocks(console, row)


def _ratio(group: dict[str, Any], measure: str) -> tuple[str, ...]:
    found = group[measure]
    over = f"{group['net_over_1']:,}" if measure == "net" else ""
    return (
        f"{found['mean']:.3f}",
        f"{found['low']:.3f}–{found['high']:.3f}",
        f"{found['micro']:.3f}",
        f"{found['median']:.3f}",
        f"{found['max']:.3f}",
        over,
    )


def _show_blocks(console: Console, row: dict[str, Any]) -> None:
    critical = row["critical_path"]
    console.print(
        f"\n[bold]{row['blocks']:,}[/] blocks ({row['open_blocks']:,} more not joined), "
        f"{row['blocks_per_trace']['mean']:.2f} a text that has any"
    )
    for title, key in (
        ("branches", "branches"),
        ("depth of a block", "depth_of_block"),
        ("deepest of a text", "deepest_of_trace"),
    ):
        console.print(table((title, *row[key]), [("", *(f"{n:,}" for n in row[key].values()))]))
    names = [name for name in SIZES if row["sizes"][name]]
    console.print(
        table(
            ("tokens, tags included", "n", *(f"p{p}" for p in PERCENTILES), "max", "mean"),
            [(_SIZE_TITLES.get(name, name), *_spread(row["sizes"][name], name)) for name in names],
        )
    )
    console.print(
        f"[bold]{critical['shortened']:,} of {critical['blocks']:,}[/] blocks shorten the critical "
        f"path against writing their paths in sequence; median {critical['median_saving']:+,.0f} "
        f"tokens a block, outermost blocks together {critical['total_saving']:+,}, of which the "
        f"good ones {critical['gained']:+,}"
    )


_SIZE_TITLES = {"imbalance": "longest ÷ mean path (a ratio)"}


def _spread(spread: dict[str, float], name: str) -> tuple[str, ...]:
    digits = 2 if name == "imbalance" else 0
    return (
        f"{spread['n']:,}",
        *(f"{spread[f'p{p}']:,.{digits}f}" for p in PERCENTILES),
        f"{spread['max']:,.{digits}f}",
        f"{spread['mean']:,.{max(digits, 1)}f}",
    )
