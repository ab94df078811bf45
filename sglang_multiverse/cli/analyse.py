"""``multiverse analyse``: the paper's analyses, each one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..corpus import TEXT, BadRow
from . import analyse_llm
from .analyse_options import (
    FailOnOption,
    JsonOption,
    SeedOption,
    console,
    parser,
    usable_rows,
)
from .ending import FailOn, end
from .refusal import fail, need, need_file

app = typer.Typer(
    name="analyse",
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


@app.command("parallelism")
def parallelism(
    file: Annotated[
        str, typer.Argument(help="JSON lines, JSON or parquet; `-` is standard input.")
    ],
    text: Annotated[
        str | None,
        typer.Option(
            help="Column of the text [default: the first there is of "
            "`deepseek_thinking_trajectory_parallel`, `output`, `text`, `completion`].",
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
    fail_on: FailOnOption = FailOn.unreadable,
    as_json: JsonOption = False,
) -> None:
    """How parallel a corpus is: degree and net parallelism, blocks, branches, depth, sizes, and
    how many blocks shorten the critical path. Needs no model.

    Rows that hold no text are reported with their number.

    Exit code 0: analysed. 1: what --fail-on names was found. 2: the file cannot be read, or holds
    no text at all.
    """
    need_file(file)
    from ..data_pipeline.analyses import rows
    from ..data_pipeline.analyses.parallelism import Statistics, measure

    try:
        parse, named = parser(tokenizer)
        statistics = Statistics(named, seed)
        for row in rows.read(file, TEXT, column=text):
            if isinstance(row, BadRow):
                statistics.bad_rows += 1
                typer.echo(f"error: {row}", err=True)
            else:
                statistics.traces.append(measure(parse(row.text)))
    except (OSError, ValueError) as error:
        fail(error)
    if not statistics.traces:
        end(file, 0, statistics.bad_rows, failed=False)
    if as_json:
        typer.echo(json.dumps(statistics.row()))
    else:
        from ..data_pipeline.analyses.tables import show_parallelism

        show_parallelism(console(), statistics.row())
    bad = statistics.bad_rows
    end(file, len(statistics.traces), bad, failed=fail_on is FailOn.unreadable and bool(bad))


app.command("implicit")(analyse_llm.implicit)
app.command("prompting")(analyse_llm.prompting)


@app.command("probing")
def probing(
    file: Annotated[
        str, typer.Argument(help="Texts with blocks, and their questions: JSON lines or parquet.")
    ],
    model: Annotated[
        Path, typer.Option("--model", metavar="DIR", help="Folder with a model and its tokenizer.")
    ],
    layers: Annotated[
        str | None,
        typer.Option(
            help="`all`, or numbers with commas; 0 is the embedding [default: about nine, evenly]."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds; a question is in one only.")] = 5,
    states: Annotated[
        Path, typer.Option(help="File that keeps the hidden states.", metavar="FILE.npz")
    ] = Path("probing.npz"),
    device: Annotated[
        str | None, typer.Option(help="`cpu` or `cuda` [default: the GPU if there is one].")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Read no more of a text than this.")] = 16384,
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.")] = None,
    question: Annotated[
        str | None, typer.Option("--question", help="Column of the question.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N usable rows.")] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """The probing test: can a classifier tell from the hidden states that a parallel part follows?

    The model reads the sequential form of every text. The token before each outermost block is
    compared with another one of the same kind that no block follows; per layer, one logistic
    regression, cross-validated by question, beside the same with shuffled labels.

    Runs on CPU for small models; a 32B model needs a GPU.
    """
    need("train", "torch", "transformers")
    need("data", "sklearn")
    need_file(file)
    from ..data_pipeline.analyses import probing as analysis
    from ..data_pipeline.analyses.states import StatesError
    from ..data_pipeline.analyses.tables import show_probing

    found, _ = usable_rows(file, TEXT, text, question, limit)
    if device not in (None, "cpu", "cuda"):
        fail(f"--device {device}: cpu or cuda")
    try:
        row = analysis.run(
            list(found.values()),
            model,
            layers=layers,
            folds=folds,
            file=states,
            device=device,
            max_tokens=max_tokens,
            seed=seed,
            say=lambda line: typer.echo(line, err=True),
        )
    except (OSError, StatesError, analysis.ProbingError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(row))
    else:
        show_probing(console(), row)
