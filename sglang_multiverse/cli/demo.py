"""``multiverse demo``: one question to the tiny model on the real server, and what happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tiny import MODEL_DIR, task
from .refusal import fail

if TYPE_CHECKING:
    from ..endpoint import Endpoint

QUESTION = "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?"
MAX_NEW_TOKENS = 1200
#: Tokens: of the context where no config says it; of the template and the mode around a question.
_CONTEXT, _TEMPLATE = 2048, 100


@dataclass(frozen=True)
class Run:
    """One answer and what it took.

    Attributes:
        output_ids: generated token ids in canonical order.
        seconds: from the request to its last token.
        meta: the server's ``meta_info``.
    """

    text: str
    output_ids: list[int]
    seconds: float
    meta: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What ``--json`` prints. ``correct`` is None where the right answer is not known."""

    question: str
    answer: str
    correct: bool | None
    note: str | None
    forks: int
    paths: int
    depth: int
    parallelism: float
    net_parallelism: float
    generated_tokens: int
    critical_path_tokens: int
    forward_steps: int
    sequential_forward_steps: int
    seconds: float
    sequential_seconds: float
    same_text: bool
    device: str
    text: str


def command(
    question: Annotated[
        str, typer.Option(help="A question of the kind the tiny model was made for.")
    ] = QUESTION,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Another checkpoint with the multiverse tags; with --url, where its tokenizer is."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask this running server, as http://127.0.0.1:30000, and start none."),
    ] = None,
) -> None:
    """Ask the tiny model a question on the real SGLang server and show its forks and joins.

    The answer is generated twice: with its paths decoded in parallel, and with
    `max_live_rows: 1`, which decodes the same paths one after another. The answer goes to stdout,
    what happens on the way to stderr.
    """
    from rich.console import Console

    from ..endpoint import Endpoint, ServerError
    from .refusal import need

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    console = Console(stderr=True)
    need("serve", "transformers", *([] if url else ["sglang"]))
    try:
        remote = None if url is None else Endpoint(_address(url))
        folder = model or (str(MODEL_DIR) if remote is None else _tokenizer_of(remote))
        _check(question, folder, serve=remote is None)
        report, run, tokenizer = _ask(question, folder, remote, console, quiet=as_json)
    except ServerError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
    else:
        _show(report, run, tokenizer, Console())


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        fail(f"--url {url} is no URL; write http://HOST:PORT")
    return url


def _tokenizer_of(remote: Endpoint) -> str:
    """Where the server has its tokenizer, if that is on this machine, too.

    Raises:
        ServerError: no server answers there.
    """
    place = str(remote.request("/model_info", timeout=10)["tokenizer_path"])
    if not Path(place).is_dir():
        fail(
            f"the server's tokenizer, {place}, is not a folder of this machine\n"
            "  name a folder with the same tokenizer by --model"
        )
    return place


def _check(question: str, model: str, *, serve: bool) -> None:
    """Refuse what can be told from the outside before anything is loaded."""
    from . import preflight

    found = [*preflight.checkpoint(model, weights=serve)]
    if serve:
        found += [*preflight.operating_system(), *preflight.folders()]
    preflight.refuse(found)
    if not question.strip():
        fail("--question is empty; leave it out for the one the demo was made for")
    room = (preflight.context_length(model) or _CONTEXT) - MAX_NEW_TOKENS - _TEMPLATE
    length = len(question.encode())  # no token is shorter than a byte
    if length > room:
        fail(
            f"--question has {length:,} bytes, and at most {room:,} fit beside an answer of "
            f"{MAX_NEW_TOKENS:,} tokens\n  ask something shorter"
        )


def _ask(
    question: str, model: str, remote: Endpoint | None, console: Any, *, quiet: bool
) -> tuple[Report, Run, Any]:
    """Raises ServerError: no server could be started, or it did not answer."""
    problem, note = _understand(question)
    with console.status("loading the tokenizer …"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": task.prompt(question, "parallel")}],
        tokenize=False,
        add_generation_prompt=True,
    )
    if note and not quiet:
        console.print(note, style="yellow", markup=False, highlight=False)
    with _served(model, remote, console) as (server, device):
        with console.status("first request: SGLang sets up its kernels …"):
            _generate(server, prompt, max_new_tokens=1)
        if not quiet:
            console.print(f"{question}\n", style="bold", markup=False, highlight=False)
        run = _generate(server, prompt, show=None if quiet else _print)
        if not quiet:
            _print("\n\n")
        with console.status("the same text, one path after another …"):
            sequential = _generate(server, prompt, max_live_rows=1)
    return _report(question, problem, note, run, sequential, device), run, tokenizer


def _print(piece: str) -> None:
    typer.echo(piece, nl=False)


@contextmanager
def _served(model: str, remote: Endpoint | None, console: Any) -> Iterator[tuple[Endpoint, str]]:
    """The server to ask, and the device it runs on."""
    if remote is not None:
        yield remote, str(remote.request("/server_info").get("device") or "another machine")
        return
    with console.status("loading SGLang …") as status:
        from ..server import Server

        def waiting(seconds: float) -> None:
            status.update(f"starting SGLang with --plugin multiverse … {seconds:.0f} s")

        stack = ExitStack()
        server = stack.enter_context(Server(model, on_wait=waiting))
    with stack:
        yield server, server.device


def _understand(question: str) -> tuple[task.Problem | None, str | None]:
    try:
        return task.understand(question), None
    except task.NotUnderstood as reason:
        return None, (
            f"The tiny model was not made for this question ({reason}); what it says will be "
            f"wrong or empty.\n{task.DESCRIPTION}"
        )


def _generate(
    server: Endpoint,
    prompt: str,
    *,
    show: Callable[[str], None] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_live_rows: int | None = None,
) -> Run:
    params: dict[str, Any] = {"temperature": 0, "max_new_tokens": max_new_tokens}
    if max_live_rows is not None:
        params["custom_params"] = {"multiverse": {"max_live_rows": max_live_rows}}
    begun = time.perf_counter()
    shown, last = 0, None
    for last in server.stream(
        "/generate", {"text": prompt, "sampling_params": params, "stream": True}
    ):
        text = last["text"]
        if show is not None and len(text) > shown:
            show(text[shown:])
            shown = len(text)
    assert last is not None, "the server closes a stream with the finished answer"
    return Run(last["text"], last["output_ids"], time.perf_counter() - begun, last["meta_info"])


def _report(
    question: str,
    problem: task.Problem | None,
    note: str | None,
    run: Run,
    sequential: Run,
    device: str,
) -> Report:
    meta = {key.removeprefix("multiverse_"): value for key, value in run.meta.items()}
    return Report(
        question=question,
        answer=run.text.rpartition("Answer:")[2].strip() if "Answer:" in run.text else "",
        correct=None if problem is None else task.grade(run.text, problem),
        note=note,
        forks=meta["forks"],
        paths=meta["paths"],
        depth=meta["depth"],
        parallelism=meta["parallelism"],
        net_parallelism=meta["net_parallelism"],
        generated_tokens=meta["completion_tokens"],
        critical_path_tokens=meta["critical_path_tokens"],
        forward_steps=meta["forward_steps"],
        sequential_forward_steps=sequential.meta["multiverse_forward_steps"],
        seconds=round(run.seconds, 3),
        sequential_seconds=round(sequential.seconds, 3),
        same_text=run.output_ids == sequential.output_ids,
        device=device,
        text=run.text,
    )


def _show(report: Report, run: Run, tokenizer: Any, console: Any) -> None:
    from rich.table import Table

    from ..dialect import Dialect
    from ..parallelism import parallelism
    from ..structure import parse
    from .tree import render

    trace = parse(run.output_ids, Dialect.from_tokenizer(tokenizer))

    def text_of(start: int, end: int) -> str:
        decoded: str = tokenizer.decode(run.output_ids[start:end])
        return decoded

    console.print(render("forks and joins", trace, parallelism(trace), text_of))
    verdict = {True: "[green]right[/]", False: "[red]wrong[/]", None: "not checked"}
    table = Table(title=f"answer: {report.answer or 'none'} ({verdict[report.correct]})")
    table.add_column("")
    table.add_column("in parallel", justify="right")
    table.add_column("one path at a time", justify="right")
    tokens = f"{report.generated_tokens:,}"
    table.add_row("generated tokens", tokens, tokens if report.same_text else "another text")
    table.add_row(
        "forward steps", f"{report.forward_steps:,}", f"{report.sequential_forward_steps:,}"
    )
    table.add_row("seconds", f"{report.seconds:.2f}", f"{report.sequential_seconds:.2f}")
    console.print(table)
    console.print(
        f"{report.forks} fork(s), {report.paths} paths; degree of parallelism "
        f"[bold]{report.parallelism:.2f}[/] (net {report.net_parallelism:.2f}), critical path "
        f"{report.critical_path_tokens:,} tokens, on {report.device}.",
        highlight=False,
    )
