"""Starting a run of the data pipeline from the command line, and saying how it goes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .refusal import fail, need, need_file

if TYPE_CHECKING:
    from ..data_pipeline.config import Config
    from ..data_pipeline.estimate import Estimate
    from ..data_pipeline.pipeline import Finished, Progress, Run
    from ..data_pipeline.recipe import Recipe
    from ..data_pipeline.source.ingest import Ingested
    from ..data_pipeline.store.store import OpenBatch, Store

StoreOption = Annotated[
    Path, typer.Option("--store", help="The SQLite file that holds every call and outcome.")
]
STORE = Path("curation.sqlite")
BatchOption = Annotated[
    bool,
    typer.Option("--batch", help="Ask by the provider's batch API: within a day, at half price."),
]
DropOption = Annotated[
    bool,
    typer.Option(
        "--drop-batches",
        help="Give up open batches that the provider no longer has: their calls count as perhaps "
        "charged and are asked again.",
    ),
]
#: Fewer are done sooner than a process has started.
ITEMS_PER_PROCESS = 16


def installed() -> None:
    """Say what to install where the extra is missing."""
    need("data", "openai", "stamina", "rapidfuzz", "datasets")


class Start:
    """A configuration read and its source with it; what is wrong with either ends the command.

    Args:
        config: a YAML file, or the name of one that ships.
        overrides: dotted names to values, see :func:`..data_pipeline.config.load`.
        files: read instead of the source that the file names.
        record: folder for cassettes of every item's replies.
        processes: that check replies, 0 for threads, None by the number of items.
        sampling: answers are drawn, with the defaults where the file says nothing of it.
        drop_batches: give up open batches that the provider no longer has.
    """

    def __init__(
        self,
        config: str,
        overrides: dict[str, Any],
        files: list[Path],
        store: Path,
        *,
        dry_run: bool = False,
        record: Path | None = None,
        processes: int | None = None,
        sampling: bool = False,
        drop_batches: bool = False,
    ):
        for one in files:
            need_file(one)
        if record is not None:
            _need_folder(record)
        from ..data_pipeline import config as configs

        if files:
            overrides = {**overrides, "source.files": [str(path) for path in files]}
        if sampling:
            overrides = {"sample": {}, **overrides}
        try:
            self.loaded = configs.load(config, overrides, drop=("source.dataset",) if files else ())
            self.recipe = self.loaded.recipe()
        except configs.ConfigError as error:
            fail(error)
        self.store, self.dry_run, self.record = store, dry_run, record
        self.processes = processes
        self.drop_batches = drop_batches

    def run(self) -> None:
        """Run, or say what a run would do. Ends the command with exit code 1 where an item is
        neither accepted nor rejected."""
        from ..data_pipeline.config import ConfigError
        from ..data_pipeline.source.ingest import IngestError, ingest

        try:
            ingested = ingest(self.loaded.source)
            if self.dry_run:
                _dry_run(self.loaded, self.recipe, ingested, self.store)
                return
            endpoint = self.loaded.endpoint.build()
        except (ConfigError, IngestError) as error:
            fail(error)
        processes = self.processes
        if processes is None:
            processes = min(os.cpu_count() or 1, len(ingested.records) // ITEMS_PER_PROCESS)
        finished = _run(
            self.loaded,
            self.recipe,
            ingested,
            self.store,
            endpoint,
            self.record,
            processes,
            self.drop_batches,
        )
        _say_end(finished)
        if finished.end != "complete" or finished.progress.open:
            raise typer.Exit(1)


def say(line: object) -> None:
    """Print ``line``; where standard output takes no more, the command ends with a word of it."""
    try:
        typer.echo(line)
    except BrokenPipeError:  # of who reads what is printed
        raise
    except OSError as error:
        _unprintable(error)


def _unprintable(error: OSError) -> NoReturn:
    with suppress(OSError):
        sys.stdout.close()  # or the interpreter tries once more when it ends
    fail(
        f"standard output cannot be written: {error.strerror or error}. What was done is in the "
        "store; send the output elsewhere and give the same command again"
    )


def _say_end(finished: Finished) -> None:
    progress = finished.progress
    pending = progress.open - progress.errors
    say(
        f"{progress.accepted:,} accepted, {progress.rejected:,} rejected, "
        f"{progress.errors:,} failed, {pending:,} pending of {progress.total:,}"
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
    elif pending:
        typer.echo("another process left items pending; the same command goes on", err=True)


def _need_folder(path: Path) -> None:
    """End the command where ``path`` is no folder that can be written to, or made."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        fail(f"--record {path}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        fail(f"--record {path}: {there} cannot be written to; name another folder")


def _dry_run(loaded: Config, recipe: Recipe, ingested: Ingested, path: Path) -> None:
    from ..data_pipeline.aside import Aside
    from ..data_pipeline.estimate import estimate
    from ..data_pipeline.pipeline import run_name
    from ..data_pipeline.store.store import Store, StoreError

    pending = ingested.records
    if path.exists() and (path.is_dir() or path.stat().st_size):
        try:
            with Store(path, new=False) as store:
                statuses = store.statuses(run_name(recipe, ingested.identity))
                done = {item for item, status in statuses if status != "error"}
        except StoreError as error:
            fail(error)
        pending = Aside(one for one in pending if one.id not in done)
    _say_source(ingested)
    _say_estimate(estimate(pending, recipe, loaded.price_list()), loaded)
    if loaded.batch is not None:
        say(
            f"in batches: {loaded.batch.items:,} items at once, one call each, answered within a "
            f"day; costs at {loaded.batch.price:g} of `prices` (`batch.price`)"
        )


def _say_source(ingested: Ingested) -> None:
    reasons = ", ".join(f"{code} ×{n}" for code, n in ingested.reasons.most_common())
    say(
        f"{len(ingested.records):,} items"
        + (f"; {len(ingested.skipped):,} rows left out ({reasons})" if ingested.skipped else "")
        + (f"; {ingested.untagged:,} chains in <think> tags, taken off" * bool(ingested.untagged))
    )


def _say_estimate(found: Estimate, loaded: Config) -> None:
    prices = loaded.price_list()
    priced = bool(prices.input or prices.output)
    cost = f", {found.cost:,.2f} {prices.currency}" if priced else ""
    worst = f", {found.worst_cost:,.2f} {prices.currency}" if priced else ""
    if loaded.sample is not None:
        say(
            f"to do: {found.items:,} questions, {found.calls:,.0f} answers, at most "
            f"{found.worst_tokens:,} tokens in and out{worst}, were every answer "
            f"{loaded.sampling.max_tokens:,} tokens long"
        )
        return
    say(
        f"to do: {found.items:,} items, about {found.calls:,.0f} calls, "
        f"{found.usage.input:,} tokens in and {found.usage.output:,} out{cost}, by length, without "
        "repairs and without a teacher's hidden reasoning"
    )
    say(
        f"at most: {found.worst_calls:,.0f} calls, {found.worst_tokens:,} tokens in and out{worst}"
        f", were every task given {loaded.attempts} times and every reply cut at its limit, of "
        f"{_limits(loaded)} tokens"
    )
    if loaded.right_answers and found.items:
        say("items that `right_answers` rejects cost no call; they are counted here, too")
    if not priced:
        say("no cost: `prices` is empty; fill it in from the provider's price list")


def _limits(loaded: Config) -> str:
    """``max_tokens``, and what it is raised to after replies that were cut."""
    most = loaded.sampling.max_tokens
    raised = min(loaded.room, loaded.attempts - 1)
    return f"{most:,}" + (f", then up to {most << raised:,}" if raised else "")


def _run(
    loaded: Config,
    recipe: Recipe,
    ingested: Ingested,
    path: Path,
    endpoint: Any,
    record: Path | None,
    processes: int,
    drop_batches: bool,
) -> Finished:
    from ..data_pipeline.pipeline import Run
    from ..data_pipeline.store.store import Store, StoreError, store_error
    from ..data_pipeline.teacher.batch_caller import BatchCaller
    from ..data_pipeline.teacher.caller import StoredCaller, Teacher, preflight
    from ..data_pipeline.teacher.transport import Transport

    _say_source(ingested)
    prices, budget = loaded.prices, loaded.budget
    if not (prices.input or prices.output or budget.tokens or budget.cost):
        typer.echo(
            "neither `prices` nor `budget` is set: costs are not counted, and nothing limits them",
            err=True,
        )
    about = {
        **loaded.about(),
        "skipped": dict(ingested.reasons),
    }

    async def drive(store: Store, caller: Teacher, workers: int) -> Finished:
        show = _Display(loaded.prices.currency, caller)
        one = Run(
            ingested.records,
            recipe,
            store,
            caller,
            workers=workers,
            processes=processes,
            source=ingested.identity,
            about=about,
            observe=show.update,
        )
        with show:
            return await _interruptible(one, batches=loaded.batch is not None)

    async def go(store: Store) -> Finished:
        prices, budget = loaded.price_list(), loaded.limits()
        if loaded.batch is not None:
            options = loaded.batch.build()
            async with BatchCaller(
                store, endpoint, prices, budget, options, drop=drop_batches, say=_say_batch
            ) as batches:
                return await drive(store, batches, options.items)
        async with Transport(endpoint, prices) as transport:
            first = preflight(recipe.model, recipe.sampling)
            caller = StoredCaller(store, transport, budget, first)
            return await drive(store, caller, endpoint.concurrency + 8)

    try:
        with Store(path) as store:
            if loaded.batch is None:
                _no_batch_waits(store)
            finished = asyncio.run(go(store))
            say_batches(store.open_batches())
            if record is not None:
                _record(store, ingested, record, endpoint.api_key)
    except StoreError as error:
        fail(error)
    except sqlite3.Error as error:
        fail(store_error(path, error))
    except asyncio.CancelledError:
        typer.echo("stopped; requests in flight were dropped and may have been charged", err=True)
        raise typer.Exit(1) from None
    return finished


def _record(store: Store, ingested: Ingested, folder: Path, key: str) -> None:
    from ..data_pipeline.teacher.cassette import record_cassettes

    try:
        written = record_cassettes(store, ingested.records, folder, secrets=[key])
    except OSError as error:
        fail(
            f"--record {folder}: {error.strerror or error}. The replies are in the store; the same "
            "command writes them once the folder can be written to"
        )
    say(f"{len(written):,} cassettes in {folder}")


def _no_batch_waits(store: Store) -> None:
    """End the command where the store has batches that only a run with them would look at."""
    waiting = [one for one in store.open_batches() if not store.lease.alive(one.owner)]
    if waiting:
        fail(f"{waiting[0]} is open; its replies are paid for: fetch them with --batch")


def _say_batch(line: str) -> None:
    typer.echo(line, err=True)


def say_batches(batches: Sequence[OpenBatch], *, err: bool = True) -> None:
    """Say which batches are open, and how to go on."""
    for batch in batches:
        how = "`multiverse curate run --batch` fetches its replies"
        typer.echo(f"{batch} is open at the provider; {how}", err=err)


async def _interruptible(run: Run, *, batches: bool) -> Finished:
    """Run; the first interrupt ends it gently, the second at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        if run.caller.stopping.is_set():
            task.cancel()
            return
        what = "ending after the calls in flight; Ctrl-C again drops them"
        if batches:
            what = "ending; " + _batches_go_on(run.store)
        typer.echo(f"\n{what}", err=True)
        run.stop()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    try:
        return await run.run()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


def _batches_go_on(store: Store) -> str:
    try:
        some = bool(store.open_batches())
    except sqlite3.Error:  # told when the run ends
        some = True
    return "batches go on at the provider" if some else "no batch was sent"


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
            TextColumn("{task.fields[note]}", markup=False),
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
            note=f"{progress.rejected:,} of {progress.settled:,} rejected · {tally.sent:,} calls · "
            f"{tally.tokens:,} tokens{cost}{retried}{failed}",
        )


#: What to do where a file cannot grow.
_FULL = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])


def with_store(path: Path, use: Callable[[Any], None], *, into: Path | None = None) -> None:
    """Call ``use`` with the store in ``path``; what is wrong with it, or with the folder ``into``
    that it writes to, ends the command."""
    from ..data_pipeline.store.store import Store, StoreError, store_error

    if not path.exists():
        fail(f"no store {path}; `multiverse curate run` makes one, --store names another")
    try:
        with Store(path, new=False) as store:
            use(store)
    except BrokenPipeError:  # of who reads what is printed
        raise
    except OSError as error:
        if into is None:  # nothing but what is printed is written
            _unprintable(error)
        fail(f"{into} cannot be written: {_why(error, into)}")
    except StoreError as error:
        fail(error)
    except sqlite3.Error as error:
        fail(store_error(path, error))


def _why(error: OSError, into: Path) -> str:
    if (into.exists() or into.is_symlink()) and not into.is_dir():
        return "it is a file; name a folder"
    if error.errno in _FULL:
        return f"{os.strerror(error.errno)}; make room, or name a folder on another disk"
    return f"{error.strerror or error}; name another folder"
