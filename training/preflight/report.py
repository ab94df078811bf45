"""What a dry run says of the data, the example and the memory; training says its warnings, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from ...dialect import Tag
from .checks import plain_model, prepared
from .example import LEGEND, rendered
from .memory import GIB, Memory, Sharding
from .template import template_warning


def counts_of(trainer: Any) -> Iterator[str]:
    """What became of the examples, by dataset."""
    for name, screening in trainer.screenings.items():
        for line in screening.lines():
            yield f"{name}: {line}"
    packed = [(name, one) for name, one in prepared(trainer) if "seq_lengths" in one.column_names]
    for name, dataset in packed:
        yield (
            f"{name}: packed into {len(dataset)} rows of at most {trainer.args.max_length} tokens"
        )
    if not isinstance(trainer.train_dataset, Dataset):
        yield "train: streamed; examples are screened as they are read"


def warnings_of(trainer: Any, raw: Any) -> Iterator[str]:
    """What would be trained and is likely not meant.

    Args:
        raw: the train dataset as it was given.
    """
    counts = trainer.screenings.get("train")
    if counts is not None and not counts.forking and trainer.args.variant != "autoregressive":
        yield (
            "warning: no example of the train dataset holds a block, so that the model does not "
            "learn to fork; give it texts in canonical form (`multiverse inspect` shows them)"
        )
    found = template_warning(
        trainer._tokenizer, next(iter(raw)), getattr(trainer, "chat_template", None)
    )
    if found is not None:
        yield f"warning: {found}"


def example_of(trainer: Any) -> Iterator[str]:
    """A short example, with a block where there is one."""
    dataset = next((one for name, one in prepared(trainer) if name == "train"), None)
    if dataset is None:
        dataset = list(trainer.train_dataset.take(16))
    tag = trainer.preparation.dialect[Tag.PARALLEL]
    few = [dataset[i] for i in range(min(len(dataset), 200))]
    row = min(few, key=lambda one: (tag not in one["input_ids"], len(one["input_ids"])))
    yield f"an example ({LEGEND}):"
    text = rendered(trainer._tokenizer, trainer.data_collator, row)
    yield from (f"  | {line}" for line in text.splitlines())


def memory_of(need: Memory, sharding: Sharding) -> Iterator[str]:
    """The parameters, and the memory of one GPU."""
    yield f"{need.parameters:,} parameters, {need.trainable:,} of them trained"
    gathered = f", gathered {need.gathered / GIB:.2f}" if need.gathered else ""
    yield (
        f"memory per GPU, {sharding}, estimated: weights {need.weights / GIB:.2f} GiB, gradients "
        f"{need.gradients / GIB:.2f}, optimizer {need.optimizer / GIB:.2f}{gathered}, activations "
        f"{need.activations / GIB:.2f}, together {need.total / GIB:.2f} GiB"
    )


def model_of(trainer: Any, longest: int) -> str:
    """The model and how it attends."""
    model, args = plain_model(trainer), trainer.args
    sharing = "" if args.share_every is None else f", share_every {args.share_every}"
    return (
        f"{type(model).__name__} attends by {model.config.get_text_config()._attn_implementation} "
        f"on {args.device.type}; variant {args.variant}{sharing}, longest row {longest} tokens"
    )
