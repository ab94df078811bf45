"""``multiverse sft``: supervised fine-tuning from a recipe or a config file."""

from __future__ import annotations

import typer


def command(context: typer.Context) -> None:
    """Fine-tune a model under the layout that is served.

    `--config NAME_OR_FILE` chooses a recipe (tiny, lora, 7b, 32b) or a YAML file; every field of
    it, and of TRL's SFTConfig, may follow as a flag. `--dry_run` says what would be trained.
    """
    from ..training import sft

    if not context.args:
        typer.echo(f"multiverse sft --config NAME_OR_FILE; recipes: {', '.join(sft.recipes())}")
        raise typer.Exit(2)
    sft.main(context.args)
