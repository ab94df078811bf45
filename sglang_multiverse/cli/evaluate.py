"""``multiverse eval``: accuracy and parallelism with error bars."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from .refusal import fail, need, need_file

app = typer.Typer(
    name="eval",
    help="Ask a server the paper's questions, and report with error bars.",
    no_args_is_help=True,
)


@app.command()
def run(
    suite: Path = typer.Argument(
        ..., help="YAML: servers, tasks, modes, budgets (docs/evaluation.md)"
    ),
    out: Path | None = typer.Option(
        None, "--out", "-o", help="folder of the logs; default eval/NAME"
    ),
    limit: int | None = typer.Option(None, min=1, help="questions of each task, at most"),
    report: bool = typer.Option(True, help="write the report at the end"),
    dry_run: bool = typer.Option(False, help="count answers and tokens; ask nothing"),
    mean_tokens: int | None = typer.Option(
        None, min=1, help="of an answer, for --dry-run; default: of published answers"
    ),
    tokens_per_second: float | None = typer.Option(
        None, min=0.001, help="of the servers, for --dry-run: gives hours"
    ),
    price: float | None = typer.Option(
        None, min=0, help="of the machine by the hour, for --dry-run: gives cost"
    ),
) -> None:
    """Run a suite, or what is missing of it: answers that are in the logs are not asked for again.

    Exit code 1: some questions have no answer; run it again for those.
    """
    need("eval", "inspect_ai", "httpx", "math_verify", "rapidfuzz", "scipy", "matplotlib")
    need_file(suite)
    from ..evaluation import planning, running
    from ..evaluation import report as reports
    from ..evaluation import suite as suites
    from ..evaluation.questions import QuestionsError
    from ..evaluation.runs import LogsError

    try:
        loaded = suites.load(suite, limit)
        if dry_run:
            _say_plan(planning.plan(loaded, mean_tokens), tokens_per_second, price)
            return
        folder = out or Path("eval") / loaded.name
        whole = running.run(loaded, folder / "logs", lambda line: typer.echo(line, err=True))
        if report:
            reports.write(folder / "logs", folder)
            typer.echo(f"report: {folder / 'report.md'}")
    except (suites.SuiteError, QuestionsError, LogsError, OSError) as error:
        fail(error)
    except (running.Interrupted, KeyboardInterrupt):
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(1) from None
    if not whole:
        typer.echo("some questions have no answer; run the same command again for those", err=True)
        raise typer.Exit(1)


def _say_plan(planned: list[Any], rate: float | None, price: float | None) -> None:
    width = max(len(one.name) for one in planned)
    for one in planned:
        said = "tokens unknown" if one.tokens is None else f"{one.tokens:13,} tokens"
        typer.echo(f"{one.name:{width}}  {one.answers:6,} answers  {said}")
    answers = sum(one.answers for one in planned)
    tokens = sum(one.tokens or 0 for one in planned)
    unknown = sum(one.tokens is None for one in planned)
    said = f"{tokens:13,} tokens" if tokens else "tokens unknown"
    typer.echo(f"{'together':{width}}  {answers:6,} answers  {said}")
    if rate is not None and tokens:
        hours = tokens / rate / 3600
        cost = f", {hours * price:,.2f} at {price:g} an hour" if price is not None else ""
        typer.echo(f"at {rate:g} tokens a second: {hours:.1f} h{cost}")
    if unknown:
        left_out = f"{unknown} arms are left out of the tokens; " if tokens else ""
        typer.echo(f"{left_out}--mean-tokens N says how long an answer is")
    for file in dict.fromkeys(one.lacking for one in planned if one.lacking):
        typer.echo(f"{file} is not there yet; its published number of questions is counted")


@app.command()
def report(
    logs: Path = typer.Argument(..., help="folder of logs, as `multiverse eval run` makes it"),
    out: Path | None = typer.Option(
        None, "--out", "-o", help="folder of the report; default beside logs"
    ),
    as_json: bool = typer.Option(False, "--json", help="print the JSON, too"),
) -> None:
    """Write report.md, report.json and figures of a folder of logs."""
    need("eval", "inspect_ai", "scipy", "matplotlib")
    from ..evaluation import report as reports
    from ..evaluation.runs import LogsError

    try:
        place = out or logs.parent
        found = reports.write(logs, place)
    except (LogsError, OSError) as error:
        fail(error)
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else place / "report.md")


@app.command()
def publish(
    logs: Path = typer.Argument(..., help="folder of logs"),
    out: Path = typer.Argument(..., help="new folder"),
) -> None:
    """Copy logs so that they may be shown: without questions whose authors ask for that."""
    need("eval", "inspect_ai")
    from ..evaluation.publishing import publish as copy
    from ..evaluation.runs import LogsError

    try:
        written = copy(logs, out)
    except (LogsError, OSError) as error:
        fail(error)
    for path, stripped in written:
        typer.echo(f"{path}{': questions and outputs withheld' if stripped else ''}")


@app.command()
def grade(
    file: Path = typer.Argument(
        ..., help="JSONL: id, output, reference[, comparison, finish_reason]; - is standard input"
    ),
    as_json: bool = typer.Option(False, "--json", help="one JSON object a line"),
    workers: int | None = typer.Option(
        None, min=1, help="outputs graded at a time; default: one for each CPU"
    ),
) -> None:
    """Grade outputs of any origin by the evaluation's rule; no server is asked.

    The answer is the last box after the thought, else the last box, else what follows the last
    `Answer:`; math-verify compares it with the reference.
    """
    need("eval", "math_verify", "rapidfuzz")
    need_file(file)
    from ..data_pipeline.gates.meaning.equivalence import EquivalenceError
    from ..evaluation.grading import Grader
    from ..text import encodable

    rows = list(_outputs(file))
    if not rows:
        fail(f"{file} holds no line")
    ids = [row.pop("id") for row in rows]
    right = graded = cut = 0
    try:
        with Grader(workers) as grader:
            for name, one in zip(ids, grader.all(rows), strict=True):
                graded += 1
                right += bool(one.correct)
                cut += one.truncated
                if as_json:
                    line = json.dumps({"id": name, **one.row()}, ensure_ascii=False)
                    typer.echo(encodable(line))
    except EquivalenceError as error:
        fail(error)
    if not as_json:
        typer.echo(f"{right} of {graded} right ({right / graded:.1%}), {cut} cut")


def _outputs(file: Path) -> Iterator[dict[str, Any]]:
    from ..corpus import BadRow, CorpusError, name_of, rows

    try:
        for row in rows(str(file)):
            if isinstance(row, BadRow):
                fail(row)
            number, fields = row
            yield _output(fields, f"{name_of(str(file))}:{number}")
    except CorpusError as error:
        fail(error)


def _output(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    lacking = [name for name in ("id", "output", "reference") if row.get(name) is None]
    if lacking:
        fail(f"{where} lacks {', '.join(lacking)}; a line is {{id, output, reference}}")
    comparison = row.get("comparison", "mathematics")
    if comparison not in ("mathematics", "choice", "words"):
        fail(f"{where}: comparison {comparison!r} is none of mathematics, choice, words")
    reason = row.get("finish_reason")
    return {
        "id": row["id"],
        "output": str(row["output"]),
        "reference": str(row["reference"]),
        "comparison": comparison,
        "finish_reason": None if reason is None else str(reason),
    }
