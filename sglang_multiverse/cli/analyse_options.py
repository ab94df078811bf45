"""What the analyses' commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..corpus import BadRow, CorpusError
from .ending import FailOn, end
from .refusal import fail

if TYPE_CHECKING:
    from rich.console import Console

    from ..data_pipeline.analyses.rows import Row
    from ..structure import Trace

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]
FailOnOption = Annotated[FailOn, typer.Option(help="What makes the exit code 1.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]


def console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def parser(folder: Path | None) -> tuple[Callable[[str], Trace], str]:
    """What parses a text, and the name of its tokens."""
    from ..dialect import Dialect
    from ..lexer import encode, lex
    from ..structure import parse

    if folder is None:

        def by_pieces(text: str) -> Trace:
            lexed = lex(text)
            return parse(lexed.ids, lexed.dialect)

        return by_pieces, "pieces of text"
    from .tokenizer import TokenizerFile

    tokenizer = TokenizerFile(folder)
    dialect = Dialect.from_tokenizer(tokenizer)
    return (lambda text: parse(encode(text, tokenizer, dialect), dialect)), folder.name


def usable_rows(
    file: str,
    columns: tuple[str, ...],
    text: str | None,
    question: str | None,
    limit: int | None,
) -> tuple[dict[str, Row], int]:
    """The usable rows by id, and how many are not; ids that recur are numbered."""
    from ..data_pipeline.analyses import rows

    found: dict[str, Row] = {}
    bad = 0
    try:
        for row in rows.read(file, columns, column=text, question_column=question):
            if limit is not None and len(found) == limit:
                break
            if isinstance(row, BadRow):
                bad += 1
                typer.echo(f"error: {row}", err=True)
                continue
            one = rows.distinct(row, found)
            found[one.id] = one
    except CorpusError as error:
        fail(error)
    end(file, len(found), bad, failed=False)
    return found, bad
