"""``multiverse analyse``: the paper's analyses, each one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import analyse_llm
from .analyse_options import JsonOption, SeedOption, console, fail, parser

app = typer.Typer(
    name="analyse",
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


@app.command("parallelism")
def parallelism(
    file: Annotated[Path, typer.Argument(help="JSON lines, JSON or parquet.")],
    text: Annotated[
        str | None,
        typer.Option(
            help="Column of the text [default: the first there is of "
            "`deepseek_thinking_trajectory_parallel`, `output`, `text`, `completion`]."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with a `tokenizer.json` that holds the tags; without it pieces of text "
            "(words, digits, signs) are counted.",
        ),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """How parallel a corpus is: degree and net parallelism, blocks, branches, depth, sizes, and
    how many blocks shorten the critical path. Needs no model.

    Rows that hold no text are reported with their number; the exit code is then 1.
    """
    from ..data_pipeline.analyses import rows
    from ..data_pipeline.analyses.parallelism import Statistics, measure

    try:
        parse, named = parser(tokenizer)
        statistics = Statistics(named, seed)
        for row in rows.read(file, rows.TRACE, column=text):
            if isinstance(row, rows.BadRow):
                statistics.bad_rows += 1
                typer.echo(f"error: {row}", err=True)
            else:
                statistics.traces.append(measure(parse(row.text)))
    except (OSError, ValueError) as error:
        fail(error)
    if not statistics.traces and not statistics.bad_rows:
        fail(f"{file} holds no row")
    if as_json:
        typer.echo(json.dumps(statistics.row()))
    else:
        from ..data_pipeline.analyses.tables import show_parallelism

        show_parallelism(console(), statistics.row())
    if statistics.bad_rows:
        raise typer.Exit(1)


app.command("implicit")(analyse_llm.implicit)
app.command("prompting")(analyse_llm.prompting)
