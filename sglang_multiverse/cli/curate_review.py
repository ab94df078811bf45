"""``multiverse curate review``: a corpus to people and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import corpus
from ..corpus import TEXT, BadRow
from .corpus import Told
from .curation import installed
from .refusal import fail

app = typer.Typer(
    no_args_is_help=True, help="Blocks of a corpus to Label Studio, Argilla or a sheet, and back."
)


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="A corpus: JSON lines, JSON or parquet.")],
    out: Annotated[
        Path,
        typer.Argument(
            help="`.json` for Label Studio, no suffix for Argilla's folder, `.csv` or `.jsonl`."
        ),
    ],
    sample: Annotated[int | None, typer.Option(min=1, help="Blocks; all if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    text: Annotated[
        str | None, typer.Option(help=f"Field of the text [default: first of {TEXT}].")
    ] = None,
) -> None:
    """Write blocks of a corpus for people to judge.

    Of every block they say whether its paths are independent, and whether outlines and conclusion
    say what the paths do.
    """
    installed()
    from ..data_pipeline.review import blocks, files

    told = Told()
    texts = blocks.Texts(_texts(file, text, told))
    try:
        chosen = blocks.sample(blocks.units(texts), sample, seed)
        told.end()
        if not chosen:
            why = "no text has a block" if texts.count else "no row holds a text"
            fail(f"{corpus.name_of(file)}: {why}, so there is nothing to judge")
        written = files.write(chosen, out)
    except (corpus.CorpusError, files.ReviewError, OSError) as error:
        fail(error)
    if texts.again:
        said = f"{texts.again:,} rows hold a text that an earlier row holds; it is asked about once"
        typer.echo(said, err=True)
    if texts.renamed:
        old, new = next(iter(texts.renamed.items()))
        said = (
            f"{len(texts.renamed):,} ids stand at several texts; the second of {old!r} is {new!r}"
        )
        typer.echo(f"{said}, and so on", err=True)
    items = len({unit.item for unit in chosen})
    typer.echo(f"{len(chosen):,} blocks of {items:,} texts: {', '.join(map(str, written))}")


def _texts(file: str, text: str | None, told: Told) -> Iterator[tuple[str, str, str]]:
    for one in corpus.rows(file):
        if isinstance(one, BadRow):
            told(one)
            continue
        number, row = one
        try:
            found = corpus.text_of(row, (text,) if text else TEXT)
        except LookupError as error:
            told(BadRow(corpus.name_of(file), number, str(error)))
            continue
        asked = next((row[name] for name in corpus.QUESTION if row.get(name) is not None), "")
        yield corpus.identity(row, number), corpus.written(asked) or "", found


@app.command()
def agreement(
    files: Annotated[
        list[Path], typer.Argument(help="What people gave back, in any format of `export`.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What people say of the blocks, with intervals, and how far they agree (Cohen's kappa)."""
    installed()
    from ..data_pipeline.review.agreement import summarise
    from ..data_pipeline.review.files import ReviewError, read

    try:
        found = summarise(read(files))
    except ReviewError as error:
        fail(error)
    typer.echo(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    people = found["reviewers"]
    yield f"{found['blocks']:,} blocks, {len(people)} reviewers: {', '.join(people) or 'nobody'}"
    for name, one in found["questions"].items():
        if not one["judged"]:
            yield f"{name}: nobody has judged it"
            continue
        low, high = one["interval"]
        yield (
            f"{name}: {one['well']:,} of {one['judged']:,} ({one['share']:.1%}; {low:.1%} to "
            f"{high:.1%}), {one['ties']:,} ties count against it"
        )
        if one["doubted"]:
            yield f"  not: {', '.join(one['doubted'])}"
        for pair in one["agreement"]:
            kappa = "undefined" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
            yield (
                f"  {' and '.join(pair['reviewers'])}: the same of {pair['same']:,} of "
                f"{pair['blocks']:,}, kappa {kappa}"
            )
    for one in found["comments"]:
        yield f"{one['item']}#{one['block']} ({one['reviewer']}): {one['comment']}"
