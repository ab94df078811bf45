"""How commands that read a corpus end: with the exit code a build can go by."""

from __future__ import annotations

from enum import StrEnum

import typer

from .refusal import fail


class FailOn(StrEnum):
    """What makes the exit code 1."""

    nothing = "nothing"
    unreadable = "unreadable"


def end(file: object, usable: int, bad: int, *, failed: bool) -> None:
    """End a command: exit code 2 where ``file`` holds nothing that can be used, 1 where it
    ``failed`` by what ``--fail-on`` names."""
    if not usable:
        fail(f"{file} holds no row that can be used" if bad else f"{file} holds no row")
    if failed:
        raise typer.Exit(1)
