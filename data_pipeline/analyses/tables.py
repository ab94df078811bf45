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


def show_implicit(console: Console, row: dict[str, Any]) -> None:
    """Print :func:`.implicit.summarise`."""
    left = [f"{code} ×{n:,}" for code, n in row["unreadable_replies"].items()]
    left += [f"endpoint failed ×{row['endpoint_failed']:,}"] if row["endpoint_failed"] else []
    left += [f"unreadable rows ×{row['bad_rows']:,}"] if row["bad_rows"] else []
    console.print(
        f"[bold]{row['traces']:,}[/] traces" + (f"; left out: {', '.join(left)}" if left else "")
    )
    if not row["traces"]:
        return
    labels = ", ".join(f"{n:,} {label}" for label, n in row["labels"].items())
    refused = ", ".join(f"{code} ×{n:,}" for code, n in row["refused"].items())
    console.print(f"{row['instances']:,} instances: {labels}; refused: {refused or 'none'}")
    branches, coverage = row["branches_per_trace"], row["coverage"]
    low, high = branches["interval"]
    console.print(
        f"branches per trace: mean {branches['mean']:.2f} ({low:.2f}–{high:.2f}), median "
        f"{branches['median']:g}; traces with any: {_with_interval(coverage)}"
    )
    if row["branches_of_instance"]:
        found = row["branches_of_instance"]
        console.print(table(("branches of an instance", *found), [("", *found.values())]))
    console.print(
        f"{row['inexact_quotes']:,} quotations differ in white space or typographic signs, "
        f"{row['repeated_quotes']:,} stand in the chain more than once. Nothing here is verified "
        "by a human; --export writes what one needs for it."
    )


def show_agreement(console: Console, row: dict[str, Any]) -> None:
    """Print :func:`.agreement.summarise`."""
    console.print(
        f"[bold]{row['judged']:,} of {row['instances']:,}[/] instances judged, of "
        f"{row['traces']:,} traces"
    )
    console.print(
        f"precision of the LLM: {_with_interval(row['precision'])}; {row['ties']:,} ties count "
        "against it"
    )
    labels = row["labels"]
    human = ", ".join(f"{n:,} {label}" for label, n in labels["human"].items())
    console.print(
        f"its label is the humans': {_with_interval(labels)}, kappa {_kappa(labels['kappa'])}; "
        f"by the humans {human}"
    )
    for one in row["agreement"]:
        console.print(
            f"{' and '.join(one['annotators'])}: {one['instances']:,} instances judged by both, "
            f"{one['same_verdict']:,} verdicts the same, Cohen's kappa "
            f"{_kappa(one['kappa_verdict'])} (with the label {_kappa(one['kappa_category'])})"
        )
    if not row["agreement"]:
        console.print("one annotator only: there is no agreement to measure")
    partial = "at least " if row["judged"] < row["instances"] else ""
    console.print(
        f"branches per trace: {partial}{row['branches_per_trace']:.2f}; traces with a verified "
        f"instance: {partial}{_with_interval(row['coverage'])}"
    )


def show_prompting(console: Console, row: dict[str, Any]) -> None:
    """Print :func:`.prompting.summarise`."""
    left = [f"{code} ×{n:,}" for code, n in row["failed_replies"].items()]
    left += [f"endpoint failed ×{row['endpoint_failed']:,}"] if row["endpoint_failed"] else []
    left += [f"unreadable rows ×{row['bad_rows']:,}"] if row["bad_rows"] else []
    console.print(
        f"[bold]{row['replies']:,}[/] replies to {row['questions']:,} questions"
        + (f"; left out: {', '.join(left)}" if left else "")
    )
    if not row["replies"]:
        return
    console.print(
        table(
            ("of the replies", "n", "share (95 %, Wilson)"),
            [
                (_SHARE_TITLES[name], f"{share['hits']:,}", _with_interval(share))
                for name, share in row["shares"].items()
            ],
        )
    )
    for name in ("degree", "net"):
        low, high = row[name]["interval"]
        console.print(
            f"{name} of parallelism: mean {row[name]['mean']:.3f} ({low:.3f}–{high:.3f}), most "
            f"{row[name]['max']:.3f}; tokens by {row['tokens_by']}"
        )
    issues = ", ".join(f"{code} ×{n:,}" for code, n in row["issues"].items())
    console.print(
        f"{row['paths_announced']:,} paths announced, {row['paths_written']:,} written; replies "
        f"with issues of form: {issues or 'none'}"
    )


_SHARE_TITLES = {
    "with_block": "hold a block",
    "announced": "announce two paths or more",
    "forked": "really write two paths or more",
    "well_formed": "are well formed",
    "plan_only": "plan only",
}


def show_probing(console: Console, row: dict[str, Any]) -> None:
    """Print :func:`.probing.run`."""
    console.print(
        f"[bold]{row['sites']:,}[/] tokens of {row['questions']:,} questions, "
        f"{row['share_parallel']:.0%} before a parallel part; {row['matched_in_the_same_text']:,} "
        f"counterparts of the same text, {row['unmatched']:,} blocks without a counterpart, "
        f"{row['beyond_max_tokens']:,} beyond --max-tokens"
    )
    lines = [(f"layer {layer}", *_accuracy(one)) for layer, one in row["layers"].items()]
    place = ("place of the token only", *_accuracy(row["place_only"]))
    console.print(table(("", "accuracy (95 %)", "labels shuffled"), [*lines, place]))
    console.print(
        f"{row['folds']} folds, a question in one only; layer 0 is the embedding. The token is the "
        "same in every pair; where the place alone tells as much as a layer does, the layer shows "
        "nothing"
    )


def _accuracy(one: dict[str, Any]) -> tuple[str, str]:
    low, high = one["interval"]
    control = one.get("shuffled")
    beside = (
        f"{control['mean']:.1%} ({control['least']:.1%}–{control['most']:.1%})" if control else ""
    )
    return f"{one['accuracy']:.1%} ({low:.1%}–{high:.1%})", beside


def _with_interval(share: dict[str, Any]) -> str:
    if share["share"] is None:
        return "no case"
    low, high = share["interval"]
    return f"{share['share']:.1%} ({low:.1%}–{high:.1%})"


def _kappa(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"
