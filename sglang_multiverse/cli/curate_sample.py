"""``multiverse curate sample``: a served model's own answers, gated and chosen from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .curation import (
    STORE,
    BatchOption,
    DropOption,
    Start,
    StoreOption,
    installed,
    with_store,
)


def command(
    config: Annotated[str, typer.Argument(help="A YAML file: source, endpoint, sampling, sample.")],
    store: StoreOption = STORE,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="Read questions and answers from this file instead."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Answers to each question.")] = None,
    choose: Annotated[
        str | None, typer.Option(help="Of the right ones: shortest, parallel, or all.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint, up to and with `/v1`.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N usable rows.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight at most.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Hard limit in tokens.")] = None,
    batch: BatchOption = False,
    drop_batches: DropOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would ask for; send nothing.")
    ] = False,
) -> None:
    """Draw answers from a served model and keep those that are right and pass the gates.

    Every answer goes through grammar, shape, independence and (with `benefit:`) the benefit gate,
    and is compared with the dataset's. Of a question's answers that pass, one or all become rows:
    `status`, `show`, `report` and `export` are those of `multiverse curate`, and so are store,
    budget and resumption.

    Exit code 0: every question is settled. 1: some are not. 2: nothing could be done.
    """
    installed()
    overrides: dict[str, Any] = {
        "sample.n": n,
        "sample.choose": choose,
        "source.limit": limit,
        "endpoint.base_url": base_url,
        "endpoint.model": model,
        "endpoint.concurrency": concurrency,
        "budget.tokens": budget_tokens,
        "batch": {} if batch else None,
    }
    started = Start(
        config,
        overrides,
        file or [],
        store,
        dry_run=dry_run,
        sampling=True,
        drop_batches=drop_batches,
    )
    try:
        started.run()
    except typer.Exit as ended:
        if ended.exit_code == 1:
            with_store(store, _say)
        raise
    if not dry_run:
        with_store(store, _say)


def _say(store: Any) -> None:
    from ..data_pipeline.sampling.tally import lines, tally

    found = tally(store.each_outcome(store.run()["run"]))
    for line in lines(found) if found is not None else ():
        typer.echo(line)
