"""``multiverse grpo``: reinforcement learning on any dataset, from a served model."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from .refusal import need, need_data


def command(context: typer.Context) -> None:
    """Train a model on the rewards of its own forked answers, sampled from a server.

    `--config NAME_OR_FILE` chooses a recipe (tiny, math) or a YAML file; every field of it, and of
    TRL's GRPOConfig and ModelConfig, may follow as a flag. `--help` lists them. Without anything
    the tiny model is trained on a CPU, to fork or not to.
    """
    need("train", "trl", "torch", "transformers", "datasets", "peft", "httpx")
    _check(context.args)
    from ..training.grpo import run

    run.main(context.args)


def _check(given: Sequence[str]) -> None:
    """A mistyped path is told at once: what reads it needs many seconds to be imported."""
    for i, word in enumerate(given):
        option, equals, value = word.partition("=")
        if option in ("--dataset_name", "--dataset-name"):
            name = value if equals else "".join(given[i + 1 : i + 2])
            need_data(name, "--dataset_name")
