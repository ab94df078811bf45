"""``multiverse sft``: supervised fine-tuning from a recipe or a config file."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from .refusal import need, need_data


def command(context: typer.Context) -> None:
    """Fine-tune a model under the layout that is served.

    `--config NAME_OR_FILE` chooses a recipe (tiny, lora, 7b, 32b) or a YAML file; every field of
    it, and of TRL's SFTConfig, may follow as a flag. `--dry_run` says what would be trained.
    """
    need("train", "trl", "torch", "transformers", "datasets", "peft")
    _check(context.args)
    from ..training import sft

    if not context.args:
        typer.echo(f"multiverse sft --config NAME_OR_FILE; recipes: {', '.join(sft.recipes())}")
        raise typer.Exit(2)
    sft.main(context.args)


def _check(given: Sequence[str]) -> None:
    """A mistyped path is told at once: what reads it needs many seconds to be imported."""
    for i, word in enumerate(given):
        option, equals, value = word.partition("=")
        if option in ("--dataset_name", "--dataset-name"):
            name = value if equals else "".join(given[i + 1 : i + 2])
            need_data(name, "--dataset_name")
