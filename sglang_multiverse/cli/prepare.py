"""``multiverse prepare-model`` and ``multiverse merge-adapter``: a checkpoint before training with
tags, and after training with LoRA."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..dialect import MULTIVERSE, SPECS, DialectError
from ..extras import install
from .refusal import fail, need

if TYPE_CHECKING:
    from ..training.tokens import Prepared


class Dtype(StrEnum):
    """What weights are written in."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write, new or empty.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint in DIR.")]
ShardSize = Annotated[str, typer.Option(help="Largest file of weights.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def command(
    source: Annotated[str, typer.Argument(help="A folder, or a name on the Hugging Face Hub.")],
    out: Out,
    dialect: Annotated[str, typer.Option(help="Whose tags.")] = MULTIVERSE.name,
    dtype: Annotated[Dtype, typer.Option(help="`auto` is the checkpoint's own.")] = Dtype.auto,
    overwrite: Overwrite = False,
    max_shard_size: ShardSize = "5GB",
    as_json: AsJson = False,
) -> None:
    """Add the tags to a checkpoint: twelve tokens, and rows to start training from.

    Rows of tags that are there already stay as they are: a prepared checkpoint, or a trained one,
    comes out with the weights it had.
    """
    with _reported():
        from ..training.tokens import prepare_model

        specs = {spec.name: spec for spec in SPECS}
        if dialect not in specs:
            raise DialectError(f"unknown dialect {dialect!r}; known: {', '.join(specs)}")
        done = prepare_model(
            source,
            out,
            spec=specs[dialect],
            dtype=dtype.value,
            overwrite=overwrite,
            max_shard_size=max_shard_size,
        )
    typer.echo(json.dumps(asdict(done)) if as_json else _told(done))


def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder that training with LoRA wrote.")],
    out: Out,
    base: Annotated[
        str | None, typer.Option(help="The model under it [default: the one it names].")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="`auto` is the base model's own.")] = Dtype.auto,
    overwrite: Overwrite = False,
    max_shard_size: ShardSize = "5GB",
    as_json: AsJson = False,
) -> None:
    """Merge a LoRA adapter into its base model: a plain checkpoint that can be served."""
    with _reported():
        from ..training.lora import merge_adapter

        done = merge_adapter(
            adapter,
            out,
            base=base,
            dtype=dtype.value,
            overwrite=overwrite,
            max_shard_size=max_shard_size,
        )
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        layout = "no layout recorded" if done.layout is None else f"layout {done.layout}"
        typer.echo(f"{done.adapter} on {done.base} → {done.out}\nsaved in {done.dtype}, {layout}")


@contextmanager
def _reported() -> Iterator[None]:
    """Errors in one line and exit code 2; of transformers only a bar, for who watches."""
    need("train", "transformers", "torch", "peft")
    try:
        from transformers.utils import logging

        logging.set_verbosity_error()
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        yield
    except ImportError as error:
        fail(f"{error}; {install('train')}")
    except (OSError, ValueError) as error:
        fail(error)


def _told(done: Prepared) -> str:
    lines = [f"{done.source} → {done.out}"]
    if done.added:
        ids = ", ".join(f"{tag} {done.token_ids[tag]}" for tag in done.added)
        lines.append(f"added {len(done.added)} tokens with rows of their own: {ids}")
    else:
        lines.append(
            f"nothing to add: all tags of {done.dialect} were there, and every row stays as it was"
        )
    grown = "as before" if done.rows == done.rows_before else f"{done.rows_before:,} before"
    ends = "shared by input and output" if done.tied else "for input and output each"
    lines.append(f"{done.rows:,} rows ({grown}), {ends}; {done.vocabulary:,} tokens")
    lines.append(f"saved in {done.dtype}")
    return "\n".join(lines)
