"""What would stop a run that has begun, asked before; training and a dry run both call this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.utils import is_liger_kernel_available

from ..attention import check_call
from ..refusals import ConfigError, told

Batch = dict[str, Any]


def check_trainer(trainer: Any) -> None:
    """Raise for what would stop ``trainer`` later.

    Raises:
        AttentionError: a text, or this device, that the model's attention cannot take.
        ConfigError: an optimizer, a scheduler or checkpointing that cannot be had; no step to take.
    """
    _check_optimizer(trainer)
    _check_steps(trainer)
    model = plain_model(trainer)
    if trainer.args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"{type(model).__name__} cannot recompute activations; set gradient_checkpointing: "
            "false"
        )
    if trainer.args.gradient_checkpointing:
        _check_recomputation(trainer.args)
    if trainer.args.use_liger_kernel and not is_liger_kernel_available():
        raise ConfigError("use_liger_kernel needs a package: pip install liger-kernel")
    for _, dataset in prepared(trainer):
        longest, shortest = (collated(trainer, dataset, at) for at in extremes(dataset))
        order, rank = longest["multiverse_order"], longest.get("multiverse_rank")
        check_call(model.base_model, order, rank, longest)
        lay_out(model, shortest)


def lay_out(model: Any, batch: Batch) -> None:
    """Run the hooks before the backbone on ``batch``, and nothing behind them."""
    last = model.base_model.register_forward_pre_hook(_stop, with_kwargs=True)
    try:
        model.base_model(**{name: x for name, x in batch.items() if name != "labels"})
    except _Stop:
        return
    finally:
        last.remove()


def plain_model(trainer: Any) -> Any:
    """The model under what PEFT has put around it."""
    model = trainer.model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prepared(trainer: Any) -> Iterator[tuple[str, Dataset]]:
    """Datasets that can be looked through: not those that are streamed or made as they are read."""
    given = trainer.eval_dataset
    every = {
        "train": trainer.train_dataset,
        **(given if isinstance(given, dict) else {"eval": given}),
    }
    for name, dataset in every.items():
        if isinstance(dataset, Dataset) and "input_ids" in dataset.column_names and len(dataset):
            yield name, dataset


def extremes(dataset: Dataset) -> tuple[int, int]:
    """Rows that hold the longest text and the shortest."""
    packed = "seq_lengths" in dataset.column_names
    lengths: list[int] = []
    for batch in dataset.with_format("arrow").iter(1000):
        if packed:
            lengths += [max(one) for one in batch["seq_lengths"].to_pylist()]
        else:
            lengths += pc.list_value_length(batch["input_ids"]).to_pylist()
    return lengths.index(max(lengths)), lengths.index(min(lengths))


def collated(trainer: Any, dataset: Dataset, at: int) -> Batch:
    """One row as a batch, on the device that trains."""
    batch = trainer.data_collator([dataset[at]])
    return {
        name: x.to(trainer.args.device) if isinstance(x, Tensor) else x for name, x in batch.items()
    }


def _check_recomputation(args: Any) -> None:
    """A step of torch's checkpointing with the settings that are its own."""
    given = dict(args.gradient_checkpointing_kwargs or {})
    for key in ("selective", "every_n_layers", "offload"):
        given.pop(key, None)
    doing = "gradient_checkpointing_kwargs cannot be used"
    with told(doing, "leave them out, or set use_reentrant alone"):
        one = torch.ones(1, requires_grad=True)
        checkpoint(torch.sin, one, **{"use_reentrant": False, **given})


def _check_optimizer(trainer: Any) -> None:
    args = trainer.args
    optimizer = getattr(args.optim, "value", args.optim)
    with told(f"optim: {optimizer} cannot be had", "choose another, such as adamw_torch"):
        kind, settings = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
    if not {"params", "model", "optimizer_dict"} & set(settings):  # those want the model itself
        with told(f"optim: {optimizer} cannot be made", "see adam_beta1, adam_epsilon, optim_args"):
            kind([torch.nn.Parameter(torch.zeros(1))], **settings)
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    with told(f"lr_scheduler_type: {schedule} cannot be had", "see its lr_scheduler_kwargs"):
        held, made = trainer.lr_scheduler, trainer._created_lr_scheduler
        one = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
        trainer.create_scheduler(num_training_steps=10, optimizer=one)
        trainer.lr_scheduler, trainer._created_lr_scheduler = held, made


def _check_steps(trainer: Any) -> None:
    args = trainer.args
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ConfigError(
            f"no step would be taken: num_train_epochs is {args.num_train_epochs:g} and max_steps "
            f"{args.max_steps}; set one of them over 0"
        )
    rows = trainer.train_dataset
    if not isinstance(rows, Dataset) or len(trainer.get_train_dataloader()):
        return
    raise ConfigError(
        f"{len(rows)} rows make no full batch of {args.train_batch_size} for each of "
        f"{args.world_size} processes, and dataloader_drop_last drops others; lower "
        "per_device_train_batch_size, or set dataloader_drop_last: false"
    )


class _Stop(Exception):
    """The hooks before this one have passed."""


def _stop(*_: Any) -> None:
    raise _Stop
