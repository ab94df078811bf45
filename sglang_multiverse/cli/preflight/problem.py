"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import typer


@dataclass(frozen=True)
class Problem:
    """What is wrong and where, and what to do."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}\n  {self.remedy}"


def refuse(problems: Iterable[Problem]) -> None:
    """Print all of ``problems`` and end with exit code 2, if there are any."""
    found = list(problems)
    for problem in found:
        typer.echo(f"error: {problem}", err=True)
    if found:
        raise typer.Exit(2)
