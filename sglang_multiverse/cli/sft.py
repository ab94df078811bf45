"""``multiverse sft``: supervised fine-tuning from a recipe or a config file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    named = {}
    for i, word in enumerate(given):
        option, equals, value = word.partition("=")
        named[option.replace("-", "_")] = value if equals else "".join(given[i + 1 : i + 2])
    config = _read(named.get("__config", ""))
    name = named.get("__dataset_name")
    if name is not None:
        need_data(name, "--dataset_name")
    elif isinstance(config.get("dataset_name"), str):
        need_data(config["dataset_name"], "dataset_name")
    listed = config.get("datasets")
    for place, one in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(one, dict) and isinstance(one.get("path"), str):
            need_data(one["path"], f"datasets[{place}].path")


def _read(name: str) -> dict[str, Any]:
    """The fields of a YAML file; of one that is none, nothing: training says so."""
    import yaml

    if not Path(name).is_file():
        return {}
    try:
        found = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
