"""``multiverse curate``: sequential reasoning in, a corpus of forked and joined traces out."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import curate_check, curate_push, curate_review, curate_sample
from .curation import (
    STORE,
    BatchOption,
    DropOption,
    Start,
    StoreOption,
    installed,
    say,
    say_batches,
    with_store,
)
from .refusal import fail

if TYPE_CHECKING:
    from ..data_pipeline.corpus.summary import Summary

app = typer.Typer(
    name="curate",
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)

RunOption = Annotated[
    str | None,
    typer.Option(
        "--run", help="A run, by name or the beginning of it [default: the one started last]."
    ),
]


@app.command("run")
def run(
    config: Annotated[
        str, typer.Argument(help="A YAML file, or the name of one that ships: `s1k`.")
    ],
    store: StoreOption = STORE,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="Read chains from this JSON-lines or parquet file instead."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the dataset to read.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint, up to and with `/v1`.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N usable rows.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight at most.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Hard limit in tokens.")] = None,
    budget_cost: Annotated[
        float | None, typer.Option(help="Hard limit in the currency of `prices`.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that check replies, 0 for threads [default: one for each CPU, fewer "
            "where there are few items].",
        ),
    ] = None,
    batch: BatchOption = False,
    drop_batches: DropOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would ask for and cost; send nothing.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write every item's replies to this folder, as cassettes.", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Curate a source, or go on where an earlier run was stopped, killed, or out of budget.

    Replies and outcomes are kept in the store: an unchanged run makes no call, a changed prompt
    asks again only for what depends on it. Before the first item a request of a few tokens shows
    that key, model and address are right. Press Ctrl-C once to end after the requests in flight
    (none is tried again), twice to drop these too. With `--batch` the first ends it at once, and
    batches go on at the provider.

    Exit code 0: every item is accepted or rejected. 1: some are not. 2: nothing could be done.
    """
    installed()
    overrides: dict[str, Any] = {
        "source.revision": revision,
        "source.limit": limit,
        "endpoint.base_url": base_url,
        "endpoint.model": model,
        "endpoint.concurrency": concurrency,
        "budget.tokens": budget_tokens,
        "budget.cost": budget_cost,
        "batch": {} if batch else None,
    }
    started = Start(
        config,
        overrides,
        file or [],
        store,
        dry_run=dry_run,
        record=record,
        processes=processes,
        drop_batches=drop_batches,
    )
    if started.loaded.sample is not None:
        fail(f"{config} has `sample`: answers are drawn by `multiverse curate sample`")
    started.run()


@app.command("status")
def status(
    store: StoreOption = STORE,
    run: RunOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """How far a run is, what was rejected and why, and what it cost."""
    installed()
    from ..data_pipeline.corpus.report import report_row
    from ..data_pipeline.corpus.summary import summarise

    def show(opened: Any) -> None:
        summary = summarise(opened, run)
        if as_json:
            typer.echo(json.dumps(report_row(summary)))
        else:
            _say_status(summary)

    with_store(store, show)


def _say_status(summary: Summary) -> None:
    from ..data_pipeline.corpus.summary import alike

    counts = summary.by_status
    typer.echo(f"run {summary.run}: {len(summary.items):,} items, {summary.seconds:,.0f} s")
    typer.echo(
        f"{counts['accepted']:,} accepted, {counts['rejected']:,} rejected, "
        f"{counts['error']:,} failed, {counts['pending']:,} pending"
    )
    for (stage, code), count in summary.reasons.most_common():
        typer.echo(f"  {count:>6,}  {stage}: {code}")
    for message, count in alike(summary.errors):
        typer.echo(f"  {count:>6,}  failed: {message}")
    if summary.reasons or summary.errors:
        typer.echo(
            "`multiverse curate show --status rejected` (or failed) lists the items, --code those "
            "of one code"
        )
    calls = sum(use.calls for use in summary.stages.values())
    typer.echo(
        f"{calls:,} calls behind the outcomes; the store has paid {summary.paid_tokens:,} tokens"
        f"{summary.money(summary.paid_cost)}"
    )
    if summary.unanswered:
        typer.echo(
            f"{summary.unanswered:,} requests were sent and never answered; they may have cost up "
            f"to {summary.lost_tokens:,} tokens{summary.money(summary.lost_cost)} more"
        )
    say_batches(summary.batches, err=False)


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Where report.json and report.md go.")] = Path(
        "report"
    ),
    store: StoreOption = STORE,
    run: RunOption = None,
) -> None:
    """Write what a run did as JSON and Markdown."""
    installed()
    from ..data_pipeline.corpus.report import write_report

    with_store(store, lambda opened: _say_paths(write_report(opened, folder, run)), into=folder)


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="Where the dataset goes; must not hold one.")],
    store: StoreOption = STORE,
    run: RunOption = None,
    curriculum: Annotated[
        bool,
        typer.Option(help="Also write the training mixture: eight stages, prompt and completion."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Order of rows within a stage of the mixture.")] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Count tokens with this folder's tokenizer.json.", metavar="DIR"),
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw the card's figures.")] = True,
    review: Annotated[
        list[Path] | None,
        typer.Option(
            help="Judgements as `review agreement` reads them: texts with a doubted block are left "
            "out. May be given several times.",
        ),
    ] = None,
) -> None:
    """Write the accepted items as parquet, with the autoregressive twin, the training mixture,
    and a dataset card."""
    installed()
    from ..data_pipeline.config import ConfigError
    from ..data_pipeline.corpus.export import ExportError, export_dataset
    from ..data_pipeline.corpus.pushing import LICENSE
    from ..data_pipeline.review.agreement import doubted
    from ..data_pipeline.review.files import ReviewError, read

    def write(opened: Any) -> None:
        try:
            without = doubted(read(review)) if review else set()
            gone: list[str] = []
            written = export_dataset(
                opened,
                folder,
                run,
                curriculum=curriculum,
                seed=seed,
                tokenizer=tokenizer,
                plots=plots,
                without=without,
                left_out=gone.append,
            )
        except (ConfigError, ExportError, ReviewError) as error:
            fail(error)
        if review:
            typer.echo(f"{len(gone):,} texts are doubted by reviewers and left out", err=True)
            if unknown := sorted(without.difference(gone)):
                typer.echo(
                    f"{len(unknown):,} doubted texts are none of this run, such as {unknown[0]!r}: "
                    "was an export of this store reviewed?",
                    err=True,
                )
        _say_paths(written)
        card = opened.run(run)["about"]
        if not json.loads(card)["card"]["license"]:
            typer.echo(f"the card names no license yet: {LICENSE}", err=True)

    with_store(store, write, into=folder)


def _say_paths(paths: list[Path]) -> None:
    for path in paths:
        say(path)


class Listing(StrEnum):
    """Statuses of items."""

    accepted = "accepted"
    rejected = "rejected"
    failed = "failed"
    pending = "pending"


@app.command("show")
def show(
    item: Annotated[
        str | None,
        typer.Argument(help="An id, or the beginning of one; without it all are listed."),
    ] = None,
    store: StoreOption = STORE,
    run: RunOption = None,
    messages: Annotated[
        bool, typer.Option("--messages", help="Print every request and reply in full.")
    ] = False,
    status: Annotated[
        Listing | None, typer.Option(help="List only the items of this status.")
    ] = None,
    code: Annotated[
        str | None, typer.Option(help="List only the items with this code, such as `no-group`.")
    ] = None,
) -> None:
    """What became of one item: its calls, what was found wrong, its text. Without an id: the items
    of the run, a line each, with status, stage and code."""
    installed()
    from ..data_pipeline.corpus.show import describe, listed

    if item and (status or code):
        fail("--status and --code list items; leave out the id, or them")

    def tell(opened: Any) -> None:
        if not item:
            lines = list(map(str, listed(opened, run, status=status and status.value, code=code)))
            for line in lines:
                typer.echo(line)
            if not lines:
                typer.echo("no item of the run is so", err=True)
            return
        found = opened.find_items(item)
        if len(found) != 1:
            matching = f"{len(found)} items begin so: {', '.join(found[:8])}" if found else "none"
            more = ", …" if len(found) > 8 else ""
            fail(f"no single item {item!r}: {matching}{more}; `multiverse curate show` lists them")
        for line in describe(opened, found[0], run, messages=messages):
            typer.echo(line)

    with_store(store, tell)


@app.command("runs")
def runs(store: StoreOption = STORE) -> None:
    """The runs of a store, the one started last first."""
    installed()

    def tell(opened: Any) -> None:
        for row in opened.runs():
            recipe = json.loads(row["about"]).get("recipe", {})
            started = datetime.fromtimestamp(row["started_at"]).strftime("%Y-%m-%d %H:%M")
            typer.echo(
                f"{row['run']}  {started}  {len(json.loads(row['items'])):,} items  "
                f"{recipe.get('model', '')}"
            )

    with_store(store, tell)


app.command("check")(curate_check.command)
app.command("push")(curate_push.command)
app.add_typer(curate_review.app, name="review")
app.command("sample")(curate_sample.command)
