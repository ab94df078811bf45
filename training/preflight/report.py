"""What a dry run says of the data, the example and the memory; training says its warnings, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset
from trl.data_utils import get_dataset_column_names

from ...dialect import Tag
from .checks import plain_model, prepared
from .example import LEGEND, rendered
from .memory import GIB, Memory, Sharding
from .template import template_warning

#: Columns that only rows of ``data/`` and of ``mixed/`` of a curated corpus have together.
_CURATED = {"text", "text_sequential", "outline", "gates"}
_MIXED = {"prompt", "completion", "stage", "parallel"}


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
    curated = _curated_warning(trainer.args, get_dataset_column_names(raw), raw)
    if curated is not None:
        yield f"warning: {curated}"
    found = template_warning(
        trainer._tokenizer, next(iter(raw)), getattr(trainer, "chat_template", None)
    )
    if found is not None:
        yield f"warning: {found}"


def _curated_warning(args: Any, columns: Sequence[str], raw: Any) -> str | None:
    """What is likely not meant of an export of ``multiverse curate``."""
    if set(columns) >= _CURATED and "prompt" not in columns and "messages" not in columns:
        return (
            "these rows are the traces of an export of `multiverse curate`, whose column `text` "
            "holds no question, so that none is trained on; --dataset_config mixed has prompts and "
            "completions (of a file, name the one in mixed/)"
        )
    if not set(columns) >= _MIXED or not _in_stages(raw):
        return None
    wrong = {
        "train_sampling_strategy: sequential": args.train_sampling_strategy != "sequential",
        "packing: false": args.packing,
        "shuffle_dataset: false": args.shuffle_dataset,
    }
    needed = ", ".join(setting for setting, lacks in wrong.items() if lacks)
    if not needed:
        return None
    return (
        "the order of these rows is a curriculum (column `stage`), and these settings do not keep "
        f"it; set {needed}"
    )


def _in_stages(raw: Any) -> bool:
    """Whether there is more than one; of a stream it is not known, and taken to be so."""
    return not isinstance(raw, Dataset) or len(raw.unique("stage")) > 1


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
