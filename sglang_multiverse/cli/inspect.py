"""``multiverse inspect``: structure and parallelism of a file of traces."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..corpus import TEXT, BadRow
from ..dialect import Dialect
from ..lexer import encode, lex
from ..parallelism import Parallelism, parallelism
from ..structure import Trace, parse
from .ending import end
from .refusal import fail, need_file
from .traces import TraceText, read

if TYPE_CHECKING:
    from rich.console import Console


class FailOn(StrEnum):
    """What makes the exit code 1."""

    nothing = "nothing"
    unreadable = "unreadable"
    malformed = "malformed"


@dataclass(frozen=True)
class Inspected:
    """One trace, its tree and its measures. ``text_of`` gives the text of a range of tokens."""

    id: str
    trace: Trace
    measures: Parallelism
    text_of: Callable[[int, int], str]

    def row(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "id": self.id,
            "well_formed": self.trace.well_formed,
            "blocks": self.measures.blocks,
            "paths": self.measures.paths,
            "depth": self.measures.depth,
            "issues": [
                {"code": issue.code, "offset": issue.offset, "message": issue.message}
                for issue in self.trace.issues
            ],
            "tokens": self.measures.tokens,
            "critical_path_tokens": self.measures.critical_path_tokens,
            "parallelism": round(self.measures.degree, 4),
            "net_parallelism": round(self.measures.net, 4),
        }


def command(
    file: Annotated[
        str,
        typer.Argument(help="JSON lines, JSON, parquet, a plain text, or `-` for standard input."),
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a `tokenizer.json`; tokens are then the model's own. Without it "
            "they are pieces of text (words, digits, signs), close to but not equal to those.",
            metavar="DIR",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, for programs.")
    ] = False,
    field: Annotated[
        str | None,
        typer.Option(
            "--text", "--field", help=f"Field of the text [default: the first there is of {TEXT}]."
        ),
    ] = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="Show every trace as a tree, not a table.")
    ] = False,
    fail_on: Annotated[
        FailOn, typer.Option(help="What makes the exit code 1: malformed takes in unreadable.")
    ] = FailOn.unreadable,
) -> None:
    """Show the structure and the parallelism of traces.

    *well formed* means complete and in canonical form: strict parsing finds no issue. A trace cut
    at a length limit is therefore not well formed, whatever its blocks are like.

    Rows that hold no trace are reported with their number, and the rest is shown.

    Exit code 0: shown. 1: what --fail-on names was found. 2: the file cannot be read, or holds no
    trace at all.
    """
    need_file(file)
    try:
        examine = examiner(tokenizer)
        entries = read(file, field)
        bad = shown = malformed = 0
        inspected: list[Inspected] = []
        for entry in entries:
            if isinstance(entry, BadRow):
                bad += 1
                typer.echo(f"error: {entry}", err=True)
                continue
            one = examine(entry)
            shown += 1
            malformed += not one.trace.well_formed
            if as_json:
                typer.echo(json.dumps(one.row()))
            else:
                inspected.append(one)
    except (OSError, ValueError) as error:
        fail(error)
    if inspected:
        _show(inspected, pieces=tokenizer is None, tree=tree or len(inspected) == 1)
    failing = {FailOn.unreadable: bad, FailOn.malformed: bad + malformed}
    end(file, shown, bad, failed=bool(failing.get(fail_on)))


def examiner(folder: Path | None) -> Callable[[TraceText], Inspected]:
    """What parses a text by the tokenizer of ``folder``, or by pieces of text.

    Raises (the call and what it returns):
        OSError, ValueError: there is no tokenizer there, or it has no tags.
    """
    if folder is None:

        def by_pieces(entry: TraceText) -> Inspected:
            lexed = lex(entry.text)
            trace = parse(lexed.ids, lexed.dialect)
            return Inspected(entry.id, trace, parallelism(trace), lexed.text)

        return by_pieces

    from .tokenizer import TokenizerFile

    tokenizer = TokenizerFile(folder)
    dialect = Dialect.from_tokenizer(tokenizer)

    def by_tokens(entry: TraceText) -> Inspected:
        ids = encode(entry.text, tokenizer, dialect)
        trace = parse(ids, dialect)
        return Inspected(
            entry.id, trace, parallelism(trace), lambda start, end: tokenizer.decode(ids[start:end])
        )

    return by_tokens


def _show(inspected: Sequence[Inspected], *, pieces: bool, tree: bool) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140)
    if tree:
        from .tree import render

        for one in inspected:
            console.print(render(one.id, one.trace, one.measures, one.text_of))
    else:
        _table(console, inspected)
    _summary(console, inspected)
    if pieces:
        console.print(
            "Tokens are pieces of text; give --tokenizer for a model's own.", style="dim italic"
        )


def _table(console: Console, inspected: Sequence[Inspected]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column("trace", overflow="fold")
    for name in ("blocks", "paths", "depth", "tokens", "critical", "parallel", "net"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("form", overflow="fold")
    for one in inspected:
        measures = one.measures
        codes = Counter(issue.code for issue in one.trace.issues)
        table.add_row(
            one.id,
            *(f"{n:,}" for n in (measures.blocks, measures.paths, measures.depth)),
            f"{measures.tokens:,}",
            f"{measures.critical_path_tokens:,}",
            f"{measures.degree:.2f}",
            f"{measures.net:.2f}",
            _counts(codes, "yellow") or "[green]well formed[/]",
        )
    console.print(table)


def _summary(console: Console, inspected: Sequence[Inspected]) -> None:
    n = len(inspected)
    blocky = [one.measures for one in inspected if one.measures.blocks]
    good = sum(one.trace.well_formed for one in inspected)
    console.print(
        f"\n[bold]{n:,}[/] trace{'s' if n != 1 else ''}: {good:,} well formed, "
        f"{len(blocky):,} with blocks"
    )
    if blocky:
        degree = sum(one.degree for one in blocky) / len(blocky)
        net = sum(one.net for one in blocky) / len(blocky)
        console.print(
            f"with blocks: {sum(one.blocks for one in blocky):,} blocks, "
            f"{sum(one.paths for one in blocky):,} paths, depth to "
            f"{max(one.depth for one in blocky)}; mean parallelism {degree:.3f}, net {net:.3f}"
        )
    codes = Counter(issue.code for one in inspected for issue in one.trace.issues)
    if codes:
        console.print(f"issues: {_counts(codes, 'yellow')}")


def _counts(codes: Counter[str], style: str) -> str:
    parts = (f"{code} ×{count}" if count > 1 else code for code, count in codes.most_common())
    joined = ", ".join(parts)
    return f"[{style}]{joined}[/]" if joined else ""
