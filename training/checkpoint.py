"""Checkpoint folders: read whole or not at all, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

#: Largest file of weights.
SHARD_SIZE = "5GB"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or must not be overwritten; the message says what to do."""


def load(source: str | Path, dtype: str = "auto") -> tuple[PreTrainedModel, str]:
    """The causal language model of ``source``, a folder or a name on the Hub, on the CPU.

    Args:
        dtype: ``auto`` for that of the checkpoint, or the name of one, as ``bfloat16``.

    Returns:
        The model and the name of its dtype.

    Raises:
        CheckpointError: there is no such model, it is quantized or an adapter, or its weights do
            not fill the model exactly: saved again, some would be made up or lost.
    """
    if (Path(source) / "adapter_config.json").is_file():
        raise CheckpointError(f"{source} is an adapter; make it a model: multiverse merge-adapter")
    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # a broken folder breaks in any way
        raise CheckpointError(f"{source} holds no model configuration: {_first(error)}") from error
    if "quantization_config" in config.to_dict():
        raise CheckpointError(
            f"{source} is quantized; take the checkpoint it was made from, and quantize the result"
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except Exception as error:
        raise CheckpointError(
            f"the model in {source} does not load: {type(error).__name__}: {_first(error)}"
        ) from error
    if report["missing_keys"]:
        raise CheckpointError(
            f"the weights in {source} lack {_some(report['missing_keys'])} of "
            f"{type(model).__name__}, which would be made up"
        )
    if report["unexpected_keys"]:
        raise CheckpointError(
            f"{type(model).__name__} has no place for {_some(report['unexpected_keys'])} in "
            f"{source}; saved again, these weights would be lost"
        )
    return model, str(model.dtype).removeprefix("torch.")


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of ``source``.

    Raises:
        CheckpointError: it holds none.
    """
    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise CheckpointError(f"{source} holds no tokenizer: {_first(error)}") from error


def check_place(out: Path, *, overwrite: bool, sources: tuple[str | Path, ...] = ()) -> None:
    """Whether a checkpoint may be written to ``out``.

    Args:
        overwrite: a checkpoint may stand there; any other folder still may not.
        sources: what must survive; names of models that are no folders need no protection.

    Raises:
        CheckpointError: it may not.
    """
    place = out.resolve()
    for source in map(Path, sources):
        there = source.resolve()
        if source.exists() and (there.is_relative_to(place) or place.is_relative_to(there)):
            raise CheckpointError(f"{out} would overwrite {source}; choose another folder")
    if not place.exists():
        return
    if not place.is_dir():
        raise CheckpointError(f"{out} is a file; choose a folder")
    if any(place.iterdir()):
        if not overwrite:
            raise CheckpointError(
                f"{out} is not empty; choose another folder, or replace it with --overwrite"
            )
        if not (place / "config.json").is_file():
            raise CheckpointError(
                f"{out} holds no checkpoint and is not overwritten; choose another folder"
            )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill. It becomes ``out`` when the block ends and vanishes when it fails."""
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        _replace(place, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(place: Path, made: Path) -> None:
    old = place.with_name(f".{place.name}.old-{os.getpid()}")
    if place.exists():
        place.rename(old)
    try:
        made.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    if old.exists():
        shutil.rmtree(old)


def _first(error: Exception) -> str:
    """The first line of what may be a long advice of the library."""
    return str(error).strip().split("\n", 1)[0]


def _some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
