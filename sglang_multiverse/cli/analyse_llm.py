"""The analyses that ask an LLM: ``multiverse analyse implicit | prompting``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..corpus import CHAIN, QUESTION
from .analyse_options import JsonOption, SeedOption, console, parser, usable_rows
from .refusal import fail, need, need_file

if TYPE_CHECKING:
    from ..data_pipeline.analyses.rows import Row
    from ..data_pipeline.analyses.session import Session

BaseUrlOption = Annotated[
    str | None, typer.Option("--base-url", help="Endpoint, up to and with `/v1`.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model to ask.")]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key-env", help="Environment variable that holds the endpoint's key."),
]
StoreOption = Annotated[
    Path,
    typer.Option("--store", help="SQLite file of every call; the curator's own may be given."),
]
STORE = Path("curation.sqlite")
ConcurrencyOption = Annotated[
    int, typer.Option("--concurrency", help="Requests in flight at most.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds for one request.")]
TemperatureOption = Annotated[float | None, typer.Option("--temperature")]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", help="Longest reply.")]
PriceInOption = Annotated[
    float | None, typer.Option("--price-input", help="Per million tokens of input.")
]
PriceOutOption = Annotated[
    float | None, typer.Option("--price-output", help="Per million tokens of output.")
]
BudgetTokensOption = Annotated[
    int | None, typer.Option("--budget-tokens", help="Hard limit of the store, in tokens.")
]
BudgetCostOption = Annotated[
    float | None, typer.Option("--budget-cost", help="Hard limit of the store, in money.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say how many calls are to be made; send nothing.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Only the first N usable rows.")]
TextOption = Annotated[str | None, typer.Option("--text", help="Column of the text.")]
QuestionOption = Annotated[str | None, typer.Option("--question", help="Column of the question.")]


def implicit(
    file: Annotated[
        str | None, typer.Argument(help="Sequential chains: JSON lines, JSON or parquet.")
    ] = None,
    base_url: BaseUrlOption = None,
    model: ModelOption = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the instances for humans to verify: .csv, .jsonl, or .json (Label Studio)."
        ),
    ] = None,
    judged: Annotated[
        list[Path] | None,
        typer.Option(
            "--import",
            help="Read judged exports back, one file a person or one for all, and print "
            "precision and agreement. Needs no endpoint.",
        ),
    ] = None,
    text: TextOption = None,
    question: QuestionOption = None,
    limit: LimitOption = None,
    store: StoreOption = STORE,
    api_key_env: KeyOption = None,
    concurrency: ConcurrencyOption = 16,
    timeout: TimeoutOption = 600,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = 32768,
    attempts: Annotated[int, typer.Option(min=1, help="Times a chain is asked about.")] = 3,
    price_input: PriceInOption = None,
    price_output: PriceOutOption = None,
    budget_tokens: BudgetTokensOption = None,
    budget_cost: BudgetCostOption = None,
    dry_run: DryRunOption = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Implicit parallelism: an LLM lists where sequential chains branch, with quotations that are
    looked up; humans verify the list.

    Columns: `deepseek_thinking_trajectory`, `chain`, `output`, `text` or `completion`, and
    `question`, `problem` or `prompt`. Replies are kept in the store: the same command again makes
    no call and goes on where it was stopped. Exit code 1: some rows are not analysed.
    """
    if judged:
        need("data", "sklearn")
        for one in judged:
            need_file(one)
        _import(judged, as_json)
        return
    need("data", "openai", "stamina", "pydantic", "rapidfuzz")
    if file is None:
        fail("give a file of chains to analyse, or --import files that humans have judged")
    need_file(file)
    from ..data_pipeline.analyses import implicit as analysis
    from ..data_pipeline.analyses import tables, verification

    given = _session(
        base_url,
        model,
        api_key_env,
        concurrency,
        timeout,
        temperature,
        max_tokens,
        (price_input, price_output),
        (budget_tokens, budget_cost),
        store,
    )
    found, bad = usable_rows(file, CHAIN, text, question, limit)
    told = analysis.recipe(given.endpoint.model, given.sampling, attempts)
    if dry_run:
        _dry_run(
            {key: partial(analysis.list_instances, row, told) for key, row in found.items()}, given
        )
        return
    if export is not None and export.exists():
        fail(f"{export} is there already and may hold judgements; name another")
    asked, took = _ask(
        given, {key: analysis.list_instances(row, told) for key, row in found.items()}, "listing"
    )
    row = analysis.summarise(
        list(asked.results.values()), failed=len(asked.failed), bad_rows=bad, seed=seed
    )
    if as_json:
        typer.echo(json.dumps(row))
    else:
        tables.show_implicit(console(), row)
    typer.echo(took, err=True)
    if export is not None:
        lists = {key: one for key, one in asked.results.items() if isinstance(one, analysis.Listed)}
        try:
            for path in verification.export(lists, found, export):
                typer.echo(path, err=as_json)
        except (OSError, verification.VerificationError) as error:
            fail(error)
    _end(asked, len(found), bad)


def prompting(
    file: Annotated[str, typer.Argument(help="Questions: JSON lines, JSON or parquet.")],
    base_url: BaseUrlOption = None,
    model: ModelOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Replies to each question.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Write every reply with its verdict here, as JSON lines, to read."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column of the question.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Count tokens with this folder's tokenizer.json."),
    ] = None,
    limit: LimitOption = None,
    store: StoreOption = STORE,
    api_key_env: KeyOption = None,
    concurrency: ConcurrencyOption = 16,
    timeout: TimeoutOption = 600,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = 32768,
    price_input: PriceInOption = None,
    price_output: PriceOutOption = None,
    budget_tokens: BudgetTokensOption = None,
    budget_cost: BudgetCostOption = None,
    dry_run: DryRunOption = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """The prompting test: does a model parallelise when it is only asked to?

    Columns: `question`, `problem` or `prompt`. Reports how many replies hold a block, announce
    paths, really write them, are well formed, or plan only, and how parallel they are. Replies are
    kept in the store. Exit code 1: some questions have no reply.
    """
    need("data", "openai", "stamina", "pydantic", "rapidfuzz")
    need_file(file)
    from ..data_pipeline.analyses import prompting as analysis
    from ..data_pipeline.analyses import tables

    given = _session(
        base_url,
        model,
        api_key_env,
        concurrency,
        timeout,
        temperature,
        max_tokens,
        (price_input, price_output),
        (budget_tokens, budget_cost),
        store,
    )
    try:
        parse, named = parser(tokenizer)
    except (OSError, ValueError) as error:
        fail(error)
    found, bad = usable_rows(file, QUESTION, text, None, limit)
    prompt = analysis.directive()

    def begin(row: Row, numbers: Iterable[int]) -> Any:
        return analysis.answers(row, given.endpoint.model, given.sampling, numbers, prompt)

    every = range(1, samples + 1)

    if dry_run:
        _dry_run(
            {f"{key}/{n}": partial(begin, row, [n]) for key, row in found.items() for n in every},
            given,
        )
        return
    asked, took = _ask(given, {key: begin(row, every) for key, row in found.items()}, "solving")
    judged = [
        (key, answer, None if answer.failure else analysis.judge(answer.text, parse))
        for key, answers in asked.results.items()
        for answer in answers
    ]
    row = analysis.summarise(
        [verdict for _, _, verdict in judged if verdict is not None],
        [answer.failure for _, answer, _ in judged if answer.failure],
        questions=len(asked.results),
        tokens=named,
        endpoint_failed=len(asked.failed),
        bad_rows=bad,
        seed=seed,
    )
    if out is not None:
        lines = [json.dumps(analysis.row(*one), ensure_ascii=False) + "\n" for one in judged]
        out.write_text("".join(lines), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(row))
    else:
        tables.show_prompting(console(), row)
    typer.echo(took, err=True)
    _end(asked, len(found), bad)


def _import(files: list[Path], as_json: bool) -> None:
    from ..data_pipeline.analyses import agreement, tables, verification

    try:
        row = agreement.summarise(verification.import_judgements(files))
    except verification.VerificationError as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(row))
    else:
        tables.show_agreement(console(), row)


def _session(
    base_url: str | None,
    model: str | None,
    api_key_env: str | None,
    concurrency: int,
    timeout: float,
    temperature: float | None,
    max_tokens: int,
    prices: tuple[float | None, float | None],
    budget: tuple[int | None, float | None],
    store: Path,
) -> Session:
    from ..data_pipeline.analyses.session import Session
    from ..data_pipeline.config import ConfigError

    try:
        return Session.of(
            endpoint={
                "base_url": base_url,
                "model": model,
                "api_key_env": api_key_env,
                "concurrency": concurrency,
                "timeout": timeout,
            },
            sampling={"temperature": temperature, "max_tokens": max_tokens},
            prices={"input": prices[0], "output": prices[1]},
            budget={"tokens": budget[0], "cost": budget[1]},
            store=store,
        )
    except ConfigError as error:
        fail(error)


def _dry_run(items: dict[str, Any], given: Session) -> None:
    from ..data_pipeline.analyses.session import pending
    from ..data_pipeline.store.store import StoreError
    from ..data_pipeline.teacher.budget import worst_case

    try:
        calls = pending(items, given.store)
    except StoreError as error:
        fail(error)
    worst = [worst_case(call, given.prices) for call in calls]
    cost = sum(one.cost for one in worst)
    money = f", {cost:,.2f} {given.prices.currency}" if cost else ""
    typer.echo(
        f"{len(items):,} requests, {len(calls):,} of them to send; at most "
        f"{sum(one.tokens for one in worst):,} tokens{money}, without repairs"
    )


def _ask(given: Session, items: dict[str, Any], title: str) -> tuple[Any, str]:
    import asyncio

    from ..data_pipeline.store.store import StoreError

    try:
        asked, took = given.ask(items, title)
    except StoreError as error:
        fail(error)
    except asyncio.CancelledError:
        typer.echo("stopped; requests in flight were dropped and may have been charged", err=True)
        raise typer.Exit(1) from None
    return asked, took


def _end(asked: Any, wanted: int, bad: int) -> None:
    for item, reason in list(asked.failed.items())[:3]:
        typer.echo(f"error: {item}: {reason}", err=True)
    missing = wanted - len(asked.results)
    if asked.end == "stopped":
        typer.echo("stopped; the same command goes on from here", err=True)
    elif asked.end != "complete":
        typer.echo(f"ended early: {asked.reason}", err=True)
    if missing:
        typer.echo(f"{missing:,} items have no reply; the same command asks again", err=True)
    if missing or bad:
        raise typer.Exit(1)
