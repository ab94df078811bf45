"""``multiverse curate push``: an exported dataset to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .curation import installed
from .refusal import fail


def command(
    folder: Annotated[Path, typer.Argument(help="As `multiverse curate export` wrote it.")],
    repo: Annotated[str, typer.Option("--repo-id", help="`owner/name` on the hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; it is private else.")
    ] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; send nothing.")
    ] = False,
) -> None:
    """Push a dataset with card and report to the Hugging Face hub.

    The card must name a license. Nothing goes but what the export wrote: card, data, mixture,
    report and figures.
    """
    installed()
    from ..data_pipeline.corpus.pushing import PushError, check_repo, prepare, push

    try:
        check_repo(repo)
        upload = prepare(folder)
        for name, size in upload.files.items():
            typer.echo(f"{size:12,}  {name}")
        who = "public" if public else "private"
        typer.echo(
            f"{upload.size:12,}  bytes in {len(upload.files)} files, license {upload.licence}, to "
            f"{repo} ({who} if it is new)"
        )
        if not dry_run:
            typer.echo(push(folder, repo, public=public, message=message))
    except PushError as error:
        fail(error)
