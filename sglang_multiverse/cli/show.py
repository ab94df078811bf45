"""``multiverse show``: one trace as a page, a picture, a profile or text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .refusal import need_file

if TYPE_CHECKING:
    from ..view.events import Event


class Format(StrEnum):
    HTML = "html"
    SVG = "svg"
    PERFETTO = "perfetto"
    TEXT = "text"


_BY_SUFFIX = {
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".svg": Format.SVG,
    ".json": Format.PERFETTO,
}


def command(
    file: Annotated[
        str,
        typer.Argument(
            help="Traces as JSON lines, an answer of a server, its recorded stream or events, a "
            "plain text, or `-` for standard input."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where it is written [default: standard output].")
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="The trace to show [default: the first].")
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="[default: by the suffix of --out; text without one].",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a `tokenizer.json`; tokens are then the model's own. Without it they "
            "are pieces of text. Events bring their own counts.",
            metavar="DIR",
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(help="The field that holds the text [default: `output`, else `text`]."),
    ] = None,
) -> None:
    """Show a trace: which paths ran side by side, and how long each was.

    `html` is one page that needs no network: lanes by position or time, text on hover and by
    keyboard. `svg` is a picture, `perfetto` a Chrome trace for ui.perfetto.dev, `text` for a
    terminal. A malformed trace is shown as far as it has structure, with what is wrong with it.
    """
    from ..view.lanes import EventError

    need_file(file)
    chosen = format_ or _BY_SUFFIX.get(out.suffix.lower() if out else "")
    if chosen is None:
        chosen = Format.HTML if out else Format.TEXT
    try:
        encoding = "utf-8"
        if chosen is Format.TEXT and out is None and sys.stdout is not None:
            encoding = sys.stdout.encoding
        text = _render(chosen, encoding, *_load(file, field, id_, tokenizer))
        if out is None:
            _print(text.encode(encoding))
        else:
            out.write_text(text, encoding="utf-8")
    except BrokenPipeError:
        raise
    except (OSError, EventError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def _load(
    file: str, field: str | None, wanted: str | None, folder: Path | None
) -> tuple[str, Sequence[Event], Sequence[str]]:
    """Title, events and issues of the trace that was asked for."""
    from ..layout import layout_of
    from ..view.events import events_of
    from .inspect import examiner
    from .recorded import Recording, choose

    one = choose(file, field, wanted)
    if isinstance(one, Recording):
        return one.id, one.events, ()
    shown = examiner(folder)(one)
    laid = layout_of(shown.trace)
    events = events_of(shown.trace, laid, shown.text_of, shown.measures)
    issues = [f"{issue.message} (token {issue.offset:,})" for issue in shown.trace.issues]
    return one.id, events, issues


def _print(raw: bytes) -> None:
    if sys.stdout is None:
        raise OSError("standard output is closed; name a file with --out")
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()  # a full disk is an error here, and none when Python ends


def _render(
    chosen: Format, encoding: str, title: str, events: Sequence[Event], issues: Sequence[str]
) -> str:
    from ..view.lanes import Timeline
    from ..view.page import page
    from ..view.perfetto import perfetto
    from ..view.plain import plain
    from ..view.svg import svg

    timeline = Timeline(events)
    writers: dict[Format, Callable[[], str]] = {
        Format.HTML: lambda: page(timeline, title, issues),
        Format.SVG: lambda: svg(timeline, title, issues),
        Format.PERFETTO: lambda: perfetto(timeline, title),
        Format.TEXT: lambda: plain(timeline, title, issues, encoding=encoding),
    }
    return writers[chosen]()
