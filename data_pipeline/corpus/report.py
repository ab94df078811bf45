"""The run report: JSON for programs, Markdown for readers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..sampling.tally import lines, tally
from ..store.store import OpenBatch, Store
from ..teacher.address import without_addresses
from .summary import Summary, alike, summarise


def report_row(summary: Summary) -> dict[str, Any]:
    """The report as a JSON object."""
    counts = summary.by_status
    return {
        "run": summary.run,
        "items": len(summary.items),
        "accepted": counts["accepted"],
        "rejected": counts["rejected"],
        "errors": counts["error"],
        "pending": counts["pending"],
        "yield": 1 - summary.reject_rate if counts["accepted"] + counts["rejected"] else None,
        "skipped_rows": summary.about.get("skipped", {}),
        "rejections": [
            {"stage": stage, "code": code, "items": count}
            for (stage, code), count in summary.reasons.most_common()
        ],
        "blocks": {
            "proposed": summary.blocks.proposed,
            "kept": summary.blocks.kept,
            "flattened": dict(summary.blocks.flattened.most_common()),
            "items_with_a_block": summary.blocks.items_with_a_block,
        },
        "notes": dict(summary.notes),
        "error_messages": _errors(summary),
        "stages": {name: asdict(use) for name, use in summary.stages.items()},
        "seconds": summary.seconds,
        "cost": summary.cost,
        "currency": summary.currency,
        "store": {
            "paid_tokens": summary.paid_tokens,
            "paid_cost": summary.paid_cost,
            "requests": summary.tries,
            "unanswered_requests": summary.unanswered,
            "unanswered_tokens_at_most": summary.lost_tokens,
            "unanswered_cost_at_most": summary.lost_cost,
            "open_batches": [_batch(batch) for batch in summary.batches],
        },
        "about": summary.about,
    }


def _errors(summary: Summary) -> dict[str, int]:
    """Messages of failed items, as they may be published."""
    found: Counter[str] = Counter()
    for message, count in summary.errors.items():
        found[without_addresses(message)] += count
    return dict(found)


def _batch(batch: OpenBatch) -> dict[str, Any]:
    row = asdict(batch)
    del row["base_url"]
    return row


def write_report(store: Store, folder: Path, run: str | None = None) -> list[Path]:
    """Write ``report.json`` and ``report.md``.

    Raises:
        StoreError: the store has no such run.
    """
    summary = summarise(store, run)
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_text = folder / "report.json", folder / "report.md"
    row = report_row(summary)
    if summary.about["recipe"].get("draws"):
        row["samples"] = tally(store.each_outcome(summary.run))
    as_json.write_text(json.dumps(row, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    as_text.write_text("\n".join(_markdown(summary, row)) + "\n", encoding="utf-8")
    return [as_json, as_text]


def _markdown(summary: Summary, row: dict[str, Any]) -> Iterator[str]:
    recipe = summary.about["recipe"]
    yield f"# Curation run {summary.run}"
    yield ""
    yield f"Generator: `{recipe['model']}`, {recipe['attempts']} attempts a task at most."
    yield ""
    yield from table(
        ("items", "accepted", "rejected", "failed", "pending", "yield"),
        [
            (
                f"{row['items']:,}",
                f"{row['accepted']:,}",
                f"{row['rejected']:,}",
                f"{row['errors']:,}",
                f"{row['pending']:,}",
                "–" if row["yield"] is None else f"{row['yield']:.1%}",
            )
        ],
    )
    if row.get("samples"):
        yield "## Answers drawn"
        yield ""
        yield from (f"- {line}" for line in lines(row["samples"]))
        yield ""
    if row["skipped_rows"]:
        yield "Rows of the source left out before any call:"
        yield ""
        yield from table(("reason", "rows"), sorted(row["skipped_rows"].items()))
    if row["rejections"]:
        yield "## Rejections"
        yield ""
        yield from table(
            ("stage", "code", "items"),
            [(one["stage"], f"`{one['code']}`", one["items"]) for one in row["rejections"]],
        )
    blocks = row["blocks"]
    if blocks["proposed"]:
        yield "## Blocks"
        yield ""
        yield f"{blocks['items_with_a_block']:,} accepted items hold one or more."
        yield ""
        yield from table(
            ("outermost blocks", "count"),
            [
                ("proposed", blocks["proposed"]),
                ("kept", blocks["kept"]),
                *((f"flattened: `{code}`", n) for code, n in blocks["flattened"].items()),
            ],
        )
    if row["notes"]:
        yield "## Accepted with a note"
        yield ""
        yield from table(("code", "items"), [(f"`{k}`", n) for k, n in row["notes"].items()])
    if row["error_messages"]:
        yield "## Failures of the endpoint"
        yield ""
        yield from table(("message", "items"), alike(row["error_messages"]))
    yield "## Calls"
    yield ""
    yield "Of the outcomes above, whichever run paid for them."
    yield ""
    columns = ("prompt", "calls", "repairs", "failed", "tokens in", "cached", "tokens out")
    yield from table(
        (*columns, "cost") if summary.priced else columns,
        [
            (
                name,
                f"{use.calls:,}",
                f"{use.repairs:,}",
                f"{use.failures:,}",
                f"{use.input_tokens:,}",
                f"{use.cached_tokens:,}",
                f"{use.output_tokens:,}",
                *([f"{use.cost:,.4f}"] if summary.priced else []),
            )
            for name, use in summary.stages.items()
        ],
    )
    store = row["store"]
    yield (
        f"The store has paid {store['paid_tokens']:,} tokens{summary.money(store['paid_cost'])}, "
        f"in {store['requests']:,} requests. "
        f"{store['unanswered_requests']:,} more were sent and never answered; they may have cost "
        f"up to {store['unanswered_tokens_at_most']:,} tokens"
        f"{summary.money(store['unanswered_cost_at_most'])}."
    )
    yield ""
    yield f"The run took {summary.seconds:,.0f} s."


def table(head: tuple[str, ...], body: list[tuple[Any, ...]]) -> Iterator[str]:
    """A Markdown table and the empty line after it."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in body:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"
    yield ""
