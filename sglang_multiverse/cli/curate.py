"""``multiverse curate``: sequential reasoning in, a corpus of forked and joined traces out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import curate_check
from .refusal import fail, need, need_file

if TYPE_CHECKING:
    from ..data_pipeline.config import Config
    from ..data_pipeline.corpus.summary import Summary
    from ..data_pipeline.estimate import Estimate
    from ..data_pipeline.pipeline import Finished, Progress, Run
    from ..data_pipeline.recipe import Recipe
    from ..data_pipeline.source.ingest import Ingested

app = typer.Typer(
    name="curate",
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)

StoreOption = Annotated[
    Path, typer.Option("--store", help="The SQLite file that holds every call and outcome.")
]
STORE = Path("curation.sqlite")
#: Fewer are done sooner than a process has started.
ITEMS_PER_PROCESS = 16
RunOption = Annotated[
    str | None, typer.Option("--run", help="A run by name [default: the one started last].")
]


def _installed() -> None:
    need("data", "openai", "stamina", "rapidfuzz", "datasets")


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
    (none is tried again), twice to drop these too.

    Exit code 0: every item is accepted or rejected. 1: some are not. 2: nothing could be done.
    """
    _installed()
    for one in file or ():
        need_file(one)
    from ..data_pipeline import config as configs
    from ..data_pipeline.source.ingest import IngestError, ingest

    overrides: dict[str, Any] = {
        "source.revision": revision,
        "source.limit": limit,
        "endpoint.base_url": base_url,
        "endpoint.model": model,
        "endpoint.concurrency": concurrency,
        "budget.tokens": budget_tokens,
        "budget.cost": budget_cost,
    }
    if file:
        overrides |= {"source.files": [str(path) for path in file]}
    try:
        loaded = configs.load(config, overrides, drop=("source.dataset",) if file else ())
        recipe = loaded.recipe()
        ingested = ingest(loaded.source)
        if dry_run:
            _dry_run(loaded, recipe, ingested, store)
            return
        endpoint = loaded.endpoint.build()
    except (configs.ConfigError, IngestError) as error:
        fail(error)
    if processes is None:
        processes = min(os.cpu_count() or 1, len(ingested.records) // ITEMS_PER_PROCESS)
    finished = _run(loaded, recipe, ingested, store, endpoint, record, processes)
    _say_end(finished)
    if finished.end != "complete" or finished.progress.errors:
        raise typer.Exit(1)


def _say_end(finished: Finished) -> None:
    progress = finished.progress
    typer.echo(
        f"{progress.accepted:,} accepted, {progress.rejected:,} rejected, "
        f"{progress.errors:,} failed, {progress.total - progress.settled - progress.errors:,} "
        f"pending of {progress.total:,}"
    )
    if finished.end == "stopped":
        typer.echo("stopped; the same command goes on from here", err=True)
    elif finished.end != "complete":
        typer.echo(f"ended early: {finished.reason}", err=True)
    elif progress.errors:
        typer.echo(
            "the same command tries the failed items again; `multiverse curate status` says why "
            "they failed",
            err=True,
        )


def _dry_run(loaded: Config, recipe: Recipe, ingested: Ingested, path: Path) -> None:
    from ..data_pipeline.estimate import estimate
    from ..data_pipeline.pipeline import run_name
    from ..data_pipeline.store.store import Store, StoreError

    pending = ingested.records
    if path.exists():
        try:
            with Store(path) as store:
                statuses = store.statuses(run_name(recipe, ingested.identity))
                done = {item for item, status in statuses if status != "error"}
        except StoreError as error:
            fail(error)
        pending = [one for one in pending if one.id not in done]
    _say_source(ingested)
    _say_estimate(estimate(pending, recipe, loaded.price_list()), loaded)


def _say_source(ingested: Ingested) -> None:
    reasons = ", ".join(f"{code} ×{n}" for code, n in ingested.reasons.most_common())
    typer.echo(
        f"{len(ingested.records):,} items"
        + (f"; {len(ingested.skipped):,} rows left out ({reasons})" if ingested.skipped else "")
    )


def _say_estimate(found: Estimate, loaded: Config) -> None:
    prices = loaded.price_list()
    priced = bool(prices.input or prices.output)
    cost = f", {found.cost:,.2f} {prices.currency}" if priced else ""
    worst = f", {found.worst_cost:,.2f} {prices.currency}" if priced else ""
    typer.echo(
        f"to do: {found.items:,} items, about {found.calls:,.0f} calls, "
        f"{found.usage.input:,} tokens in and {found.usage.output:,} out{cost}, by length, without "
        "repairs and without a teacher's hidden reasoning"
    )
    typer.echo(
        f"at most: {found.worst_calls:,.0f} calls, {found.worst_tokens:,} tokens{worst}, were "
        f"every task given {loaded.attempts} times and every reply {loaded.sampling.max_tokens:,} "
        "tokens long"
    )
    if not priced:
        typer.echo("no cost: `prices` is empty; fill it in from the provider's price list")


def _run(
    loaded: Config,
    recipe: Recipe,
    ingested: Ingested,
    path: Path,
    endpoint: Any,
    record: Path | None,
    processes: int,
) -> Finished:
    from ..data_pipeline.pipeline import Run
    from ..data_pipeline.store.store import Store, StoreError, store_error
    from ..data_pipeline.teacher.caller import StoredCaller, preflight
    from ..data_pipeline.teacher.cassette import record_cassettes
    from ..data_pipeline.teacher.transport import Transport

    _say_source(ingested)
    about = {
        **loaded.about(),
        "skipped": dict(ingested.reasons),
    }

    async def go(store: Store) -> Finished:
        async with Transport(endpoint, loaded.price_list()) as transport:
            first = preflight(recipe.model, recipe.sampling)
            caller = StoredCaller(store, transport, loaded.limits(), first)
            show = _Display(loaded.prices.currency, caller)
            one = Run(
                ingested.records,
                recipe,
                store,
                caller,
                workers=endpoint.concurrency + 8,
                processes=processes,
                source=ingested.identity,
                about=about,
                observe=show.update,
            )
            with show:
                return await _interruptible(one)

    try:
        with Store(path) as store:
            finished = asyncio.run(go(store))
            if record is not None:
                written = record_cassettes(
                    store, ingested.records, record, secrets=[endpoint.api_key]
                )
                typer.echo(f"{len(written):,} cassettes in {record}")
    except StoreError as error:
        fail(error)
    except sqlite3.Error as error:
        fail(store_error(path, error))
    except asyncio.CancelledError:
        typer.echo("stopped; requests in flight were dropped and may have been charged", err=True)
        raise typer.Exit(1) from None
    return finished


async def _interruptible(run: Run) -> Finished:
    """Run; the first interrupt ends it gently, the second at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        if run.caller.stopping.is_set():
            task.cancel()
            return
        typer.echo("\nending after the calls in flight; Ctrl-C again drops them", err=True)
        run.stop()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    try:
        return await run.run()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


class _Display:
    """A progress bar with time left, cost and reject rate."""

    def __init__(self, currency: str, caller: Any):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._caller = caller
        self._currency = currency
        self._bar = Bar(
            TextColumn("curating"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=sys.stderr),
        )
        self._task = self._bar.add_task("", total=None, note="")
        self._retries = 0

    def __enter__(self) -> _Display:
        from stamina.instrumentation import set_on_retry_hooks

        set_on_retry_hooks([self._retried])  # instead of a log line for each
        self._bar.start()
        return self

    def _retried(self, details: object) -> None:
        self._retries += 1

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def update(self, progress: Progress) -> None:
        tally = self._caller.tally
        cost = f" · {tally.cost:,.2f} {self._currency}" if tally.cost else ""
        failed = f" · {progress.errors} failed" if progress.errors else ""
        retried = f" · {self._retries:,} retries" if self._retries else ""
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.settled + progress.errors,
            note=f"{progress.reject_rate:.0%} rejected · {tally.sent:,} calls · "
            f"{tally.tokens:,} tokens{cost}{retried}{failed}",
        )


def _with_store(path: Path, use: Callable[[Any], None]) -> None:
    from ..data_pipeline.store.store import Store, StoreError, store_error

    if not path.exists():
        fail(f"no store {path}; `multiverse curate run` makes one, --store names another")
    try:
        with Store(path) as store:
            use(store)
    except (StoreError, OSError) as error:
        fail(error)
    except sqlite3.Error as error:
        fail(store_error(path, error))


@app.command("status")
def status(
    store: StoreOption = STORE,
    run: RunOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """How far a run is, what was rejected and why, and what it cost."""
    _installed()
    from ..data_pipeline.corpus.report import report_row
    from ..data_pipeline.corpus.summary import summarise

    def show(opened: Any) -> None:
        summary = summarise(opened, run)
        if as_json:
            typer.echo(json.dumps(report_row(summary)))
        else:
            _say_status(summary)

    _with_store(store, show)


def _say_status(summary: Summary) -> None:
    counts = summary.by_status
    typer.echo(f"run {summary.run}: {len(summary.items):,} items, {summary.seconds:,.0f} s")
    typer.echo(
        ", ".join(
            f"{counts[name]:,} {name}" for name in ("accepted", "rejected", "error", "pending")
        )
    )
    for (stage, code), count in summary.reasons.most_common():
        typer.echo(f"  {count:>6,}  {stage}: {code}")
    for message, count in summary.errors.most_common(5):
        typer.echo(f"  {count:>6,}  error: {message}")
    calls = sum(use.calls for use in summary.stages.values())
    typer.echo(
        f"{calls:,} calls behind the outcomes; the store has paid {summary.paid_tokens:,} tokens, "
        f"{summary.paid_cost:,.4f} {summary.currency}"
    )
    if summary.unanswered:
        typer.echo(
            f"{summary.unanswered:,} requests were sent and never answered; they may have cost up "
            f"to {summary.lost_tokens:,} tokens, {summary.lost_cost:,.4f} {summary.currency} more"
        )


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Where report.json and report.md go.")] = Path(
        "report"
    ),
    store: StoreOption = STORE,
    run: RunOption = None,
) -> None:
    """Write what a run did as JSON and Markdown."""
    _installed()
    from ..data_pipeline.corpus.report import write_report

    _with_store(store, lambda opened: _say_paths(write_report(opened, folder, run)))


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
) -> None:
    """Write the accepted items as parquet, with the autoregressive twin, the training mixture,
    and a dataset card."""
    _installed()
    from ..data_pipeline.config import ConfigError
    from ..data_pipeline.corpus.export import ExportError, export_dataset

    def write(opened: Any) -> None:
        try:
            written = export_dataset(
                opened,
                folder,
                run,
                curriculum=curriculum,
                seed=seed,
                tokenizer=tokenizer,
                plots=plots,
            )
        except (ConfigError, ExportError) as error:
            fail(error)
        _say_paths(written)

    _with_store(store, write)


def _say_paths(paths: list[Path]) -> None:
    for path in paths:
        typer.echo(path)


@app.command("show")
def show(
    item: Annotated[str, typer.Argument(help="An id, or the beginning of one.")],
    store: StoreOption = STORE,
    run: RunOption = None,
    messages: Annotated[
        bool, typer.Option("--messages", help="Print every request and reply in full.")
    ] = False,
) -> None:
    """What became of one item: its calls, what was found wrong, its text."""
    _installed()
    from ..data_pipeline.corpus.show import describe

    def write(opened: Any) -> None:
        found = opened.find_items(item)
        if len(found) != 1:
            matching = f"{len(found)} items begin so: {', '.join(found[:8])}" if found else "none"
            fail(f"no single item {item!r}: {matching}")
        for line in describe(opened, found[0], run, messages=messages):
            typer.echo(line)

    _with_store(store, write)


app.command("check")(curate_check.command)
