"""How a command says that it cannot do what it was asked: one line on stderr, exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer

from .. import extras


def fail(error: object) -> NoReturn:
    """Print ``error``, without markup, and end with exit code 2. A reader that has seen enough is
    no error: the command then ends silently."""
    if isinstance(error, BrokenPipeError):
        raise error
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2)


def need(extra: str, *packages: str) -> None:
    """Say what to install before an import fails with a traceback."""
    try:
        extras.require(extra, *packages)
    except extras.MissingExtra as error:
        fail(error)


def need_file(path: Path | str) -> None:
    """Say that a file is missing before anything heavy is imported; ``-`` is standard input."""
    if str(path) != "-" and not Path(path).exists():
        fail(f"No such file: {path} (looked in {Path(path).absolute().parent})")


def need_data(name: str, option: str) -> None:
    """Say of a dataset's name that reads as a path that nothing is there.

    Anything else may be a name on the Hub, which only the network can tell.
    """
    written_as_path = name.startswith((".", "/", "~")) or Path(name).suffix in _DATA
    if written_as_path and not Path(name).exists():
        fail(f"{option} {name}: no such file or folder (looked in {Path(name).absolute().parent})")


_DATA = (".jsonl", ".json", ".parquet", ".csv")
