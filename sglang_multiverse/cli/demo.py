"""``multiverse demo``: one question to the tiny model on the real server, and what happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tiny import MACHINES_DIR, MODEL_DIR, machines, task
from .refusal import fail

if TYPE_CHECKING:
    from ..endpoint import Endpoint


@dataclass(frozen=True)
class Shipped:
    """A model that ships.

    Attributes:
        task: module of its questions.
        question: what it is asked where the user asks nothing.
        longest: tokens of an answer, above which it is cut.
    """

    folder: Path
    task: Any
    question: str
    longest: int


MACHINES = Shipped(
    MACHINES_DIR,
    machines,
    "Which ends highest: a green 7 12 times, b white 8 12 times, c blue 23 12 times, "
    "d red 32 12 times?",
    2000,
)
SUMS = Shipped(
    MODEL_DIR, task, "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?", 1200
)
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
    """What ``--json`` prints.

    ``sequential_…`` is the same text, one path after another; ``step_by_step_…`` another text, the
    answer to the same question asked sequentially. ``…correct`` is None where the right answer is
    not known.
    """

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
    step_by_step_tokens: int
    step_by_step_forward_steps: int
    step_by_step_seconds: float
    step_by_step_correct: bool | None
    device: str
    text: str


def command(
    question: Annotated[
        str | None,
        typer.Option(help="A question of the kind the model was made for.", show_default=False),
    ] = None,
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
    """Ask a tiny model a question on the real SGLang server and show its forks and joins.

    It is asked three times: to think in parallel; the same with `max_live_rows: 1`, which decodes
    the same paths one after another; and to think step by step, as one sequence. The answer goes to
    stdout, what happens on the way to stderr.
    """
    from rich.console import Console

    from ..endpoint import Endpoint, ServerError
    from .refusal import need

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    console = Console(stderr=True)
    need("serve", "transformers", *([] if url else ["sglang"]))
    try:
        remote = None if url is None else Endpoint(_address(url))
        folder = model or (str(MACHINES_DIR) if remote is None else _tokenizer_of(remote))
        shipped = SUMS if Path(folder).resolve() == MODEL_DIR else MACHINES
        asked = shipped.question if question is None else question
        _check(asked, folder, shipped, serve=remote is None)
        report, run, tokenizer = _ask(asked, folder, shipped, remote, console, quiet=as_json)
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


def _check(question: str, model: str, shipped: Shipped, *, serve: bool) -> None:
    """Refuse what can be told from the outside before anything is loaded."""
    from . import preflight

    found = [*preflight.checkpoint(model, weights=serve)]
    if serve:
        found += [*preflight.operating_system(), *preflight.folders()]
    preflight.refuse(found)
    if not question.strip():
        fail("--question is empty; leave it out for the one the demo was made for")
    room = (preflight.context_length(model) or _CONTEXT) - shipped.longest - _TEMPLATE
    length = len(question.encode())  # no token is shorter than a byte
    if length > room:
        fail(
            f"--question has {length:,} bytes, and at most {room:,} fit beside an answer of "
            f"{shipped.longest:,} tokens\n  ask something shorter"
        )


def _ask(
    question: str,
    model: str,
    shipped: Shipped,
    remote: Endpoint | None,
    console: Any,
    *,
    quiet: bool,
) -> tuple[Report, Run, Any]:
    """Raises ServerError: no server could be started, or it did not answer."""
    problem, note = _understand(question, shipped)
    with console.status("loading the tokenizer …"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)

    def prompt(mode: task.Mode) -> Any:
        said = shipped.task.prompt(question if problem is None else problem, mode)
        message = [{"role": "user", "content": said}]
        return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    if note and not quiet:
        console.print(note, style="yellow", markup=False, highlight=False)
    with _served(model, remote, console) as (server, device):
        ask = partial(_generate, server, max_new_tokens=shipped.longest)
        with console.status("first request: SGLang sets up its kernels …"):
            _generate(server, prompt("parallel"), max_new_tokens=1)
        if not quiet:
            console.print(f"{question}\n", style="bold", markup=False, highlight=False)
        run = ask(prompt("parallel"), show=None if quiet else _print)
        if not quiet:
            _print("\n\n")
        with console.status("the same text, one path after another …"):
            sequential = ask(prompt("parallel"), max_live_rows=1)
        with console.status("the same question, to be thought through step by step …"):
            step_by_step = ask(prompt("sequential"))

    def correct(one: Run) -> bool | None:
        return None if problem is None else shipped.task.grade(one.text, problem)

    report = _report(question, note, run, sequential, step_by_step, correct, device)
    return report, run, tokenizer


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


def _understand(question: str, shipped: Shipped) -> tuple[Any, str | None]:
    """What is asked, as the shipped model's task has it, or None and why not."""
    try:
        return shipped.task.understand(question), None
    except task.NotUnderstood as reason:
        return None, (
            f"The tiny model was not made for this question ({reason}); what it says will be "
            f"wrong or empty.\n{shipped.task.DESCRIPTION}"
        )


def _generate(
    server: Endpoint,
    prompt: str,
    *,
    max_new_tokens: int,
    show: Callable[[str], None] | None = None,
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
    note: str | None,
    run: Run,
    sequential: Run,
    step_by_step: Run,
    correct: Callable[[Run], bool | None],
    device: str,
) -> Report:
    meta = {key.removeprefix("multiverse_"): value for key, value in run.meta.items()}
    return Report(
        question=question,
        answer=run.text.rpartition("Answer:")[2].strip() if "Answer:" in run.text else "",
        correct=correct(run),
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
        step_by_step_tokens=step_by_step.meta["completion_tokens"],
        step_by_step_forward_steps=step_by_step.meta["multiverse_forward_steps"],
        step_by_step_seconds=round(step_by_step.seconds, 3),
        step_by_step_correct=correct(step_by_step),
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
    table.add_column("asked step by step", justify="right")
    tokens, other = f"{report.generated_tokens:,}", f"{report.step_by_step_tokens:,}"
    table.add_row("generated tokens", tokens, tokens if report.same_text else "another text", other)
    table.add_row(
        "forward steps",
        f"{report.forward_steps:,}",
        f"{report.sequential_forward_steps:,}",
        f"{report.step_by_step_forward_steps:,}",
    )
    table.add_row(
        "seconds",
        f"{report.seconds:.2f}",
        f"{report.sequential_seconds:.2f}",
        f"{report.step_by_step_seconds:.2f}",
    )
    table.add_row(
        "answer",
        verdict[report.correct],
        verdict[report.correct] if report.same_text else "",
        verdict[report.step_by_step_correct],
    )
    console.print(table)
    console.print(
        f"{report.forks} fork(s), {report.paths} paths; degree of parallelism "
        f"[bold]{report.parallelism:.2f}[/] (net {report.net_parallelism:.2f}), critical path "
        f"{report.critical_path_tokens:,} tokens, on {report.device}.",
        highlight=False,
    )
