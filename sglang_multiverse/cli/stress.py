"""``multiverse fuzz`` and ``multiverse soak``: attack a server, and say what did not hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tiny import MODEL_DIR
from .refusal import need

if TYPE_CHECKING:
    from ..stress.bodies import Speech
    from ..stress.fuzz import Report
    from ..stress.soak import Result

_JSON = typer.Option("--json", help="Print one JSON object.")
_URL = typer.Option(
    help="Attack this running server [default: start servers of the tiny model, with SGLang's "
    "memory checks on]. Nobody else should be using it."
)
_MODEL = typer.Option(
    help="Checkpoint to serve; with --url, where its tokenizer is.", show_default="the tiny model"
)


def fuzz(
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Minutes of requests; starting servers not counted.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(help="Makes the same servers and requests again.")] = 0,
    url: Annotated[str | None, _URL] = None,
    model: Annotated[Path, _MODEL] = MODEL_DIR,
    server: Annotated[int, typer.Option(min=0, help="Number of the first server.")] = 0,
    round_: Annotated[
        int | None, typer.Option("--round", min=0, help="Make this round alone, of --server.")
    ] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="Serve without the plugin: shows SGLang's own faults.")
    ] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Send random requests to every endpoint and check what must always hold.

    Bodies of every wrong kind, random grammars of tags, batches, streams, aborts, hang-ups, pauses
    and weight updates, 1 to 64 at a time, at servers with pools of several sizes. Exits with 1 if
    anything did not hold.
    """
    from rich.console import Console

    need("serve", "sglang")
    from ..stress.fuzz import Fuzz

    console = Console(stderr=True)
    speech = _speech(model, url, console)
    if stock:
        speech = type(speech)(speech.tokenizer, speech.dialect, None)
    attack = Fuzz(
        model,
        speech,
        seed=seed,
        minutes=minutes,
        url=url,
        plugin=not stock,
        tell=_teller(console, quiet=as_json),
    )
    report = attack.run(server=server, round_=round_)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        _show_fuzz(report, Console())
    if report.violations:
        raise typer.Exit(1)


def soak(
    requests: Annotated[int, typer.Option(min=1, help="Requests to make.")] = 512,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 64,
    seed: Annotated[int, typer.Option(help="Makes the same requests again.")] = 0,
    distinct: Annotated[
        int, typer.Option(min=1, help="Different requests among them; each is first asked alone.")
    ] = 48,
    pool: Annotated[
        int, typer.Option(min=1000, help="KV tokens of the server that is started.")
    ] = 4000,
    url: Annotated[str | None, _URL] = None,
    model: Annotated[Path, _MODEL] = MODEL_DIR,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Ask much at once on a tight pool and compare every answer with the answer alone.

    Greedy, plain and forking requests mixed, some aborted. Exits with 1 if an answer is lost or
    wrong, or KV is held when nothing runs.
    """
    from rich.console import Console

    need("serve", "sglang")
    from ..server import ServerError
    from ..stress.soak import Soak

    console = Console(stderr=True)
    speech = _speech(model, url, console)
    test = Soak(
        speech,
        requests=requests,
        concurrency=concurrency,
        seed=seed,
        distinct=distinct,
        tell=_teller(console, quiet=as_json),
    )
    try:
        result = test.run(url) if url is not None else test.run_own(model, pool)
    except ServerError as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        _show_soak(result, Console())
    if result.lost or result.wrong or result.leaked_tokens:
        raise typer.Exit(1)


def _teller(console: Any, *, quiet: bool) -> Callable[[str], None]:
    """Prints lines as they come; with ``quiet`` violations alone."""

    def tell(line: str) -> None:
        if quiet and not line.startswith("violation"):
            return
        if "starting" in line and not line.endswith(" 0 s"):
            return
        console.print(line, markup=False, highlight=False)

    return tell


def _speech(model: Path, url: str | None, console: Any) -> Speech:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    from ..dialect import Dialect
    from ..stress.bodies import Speech
    from ..stress.scripted import Forced
    from ..stress.wire import Wire

    tokenizer = AutoTokenizer.from_pretrained(model)
    processor: str | None = Forced.to_str()
    if url is not None:
        answer = Wire(url).ask("/server_info")
        if answer.status != 200:
            console.print(f"[red]{url}/server_info: {answer.fault or answer.status}[/]")
            raise typer.Exit(1)
        if not answer.json().get("enable_custom_logit_processor"):
            processor = None
            console.print(
                "the server takes no logit processors, so that no answer can be forced: serve it "
                "with --enable-custom-logit-processor for random grammars and texts"
            )
    return Speech(tokenizer, Dialect.from_tokenizer(tokenizer), processor)


def _show_fuzz(report: Report, console: Any) -> None:
    from rich.table import Table

    table = Table(title=f"fuzz: {report.requests:,} requests, seed {report.seed}")
    table.add_column("request")
    table.add_column("outcomes")
    for kind, outcomes in sorted(report.kinds.items()):
        told = ", ".join(f"{name} × {count}" for name, count in sorted(outcomes.items()))
        table.add_row(kind, told)
    console.print(table)
    for one in report.found:
        place = f"seed {one['seed']}, server {one['server']}, round {one['round']}"
        console.print(f"[red]{one['what']}[/] ({place}; {one['flags']})", highlight=False)
        console.print(one["detail"][:2000], markup=False, highlight=False)
        for call in one["calls"][:3]:
            console.print("  " + json.dumps(call)[:1500], markup=False, highlight=False)
    console.print(
        f"violations: [bold]{report.violations}[/]; {report.rounds} rounds at "
        f"{len(report.servers)} server(s), {report.forks:,} forks, {report.seconds:.0f} s",
        highlight=False,
    )


def _show_soak(result: Result, console: Any) -> None:
    from rich.table import Table

    table = Table(title=f"soak: {result.requests:,} requests, {result.concurrency} at a time")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in result.as_json().items():
        if not isinstance(value, list):
            table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value}")
    console.print(table)
    for one in result.found:
        console.print(f"[red]{one['what']}[/] {one['detail']}"[:2000], highlight=False)
