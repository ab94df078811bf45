"""A dry run: the data as it would be trained on, and an estimate of memory, without weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from .lora import with_tag_rows
from .trainer import MultiverseSFTConfig, MultiverseSFTTrainer

GIB = 1024**3


class _Preparation(MultiverseSFTTrainer):
    """The trainer's data preparation, without its model."""

    def __init__(self, tokenizer: Any, args: MultiverseSFTConfig, sample: dict[str, Any]) -> None:
        tokenizer.pad_token = args.pad_token or tokenizer.pad_token or tokenizer.eos_token
        self._tokenizer = tokenizer
        self.chat_template = None
        if args.assistant_only_loss and not has_generation_markers(tokenizer.chat_template):
            self.chat_template = get_training_chat_template(tokenizer)
        self.screenings = {}
        self._prepared = set()
        self.completion_only_loss = args.completion_only_loss
        if args.completion_only_loss is None:
            self.completion_only_loss = "prompt" in sample and "completion" in sample


@dataclass(frozen=True)
class Memory:
    """Bytes one process needs without sharding. What is trained is counted in float32, as FSDP2's
    mixed precision and PEFT hold it. Activations are for one micro-batch at the longest text;
    kernels, fragmentation and communication buffers come on top."""

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def memory(
    path: str, args: MultiverseSFTConfig, longest: int, tokenizer: Any, peft: Any = None
) -> Memory:
    """Estimate for AdamW, frozen weights in the dtype they are loaded in.

    Args:
        longest: tokens of the longest row.
        peft: a LoRA config; its matrices and the rows of the tags are trained then.
    """
    init = dict(args.model_init_kwargs or {})
    config = AutoConfig.from_pretrained(path, revision=init.get("revision"))
    text = config.get_text_config()
    dtype = init.get("dtype") or "float32"
    width = (getattr(torch, dtype) if dtype != "auto" else text.dtype or torch.float32).itemsize
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    trainable = parameters
    if peft is not None:
        from peft import get_peft_model

        with torch.device("meta"):
            wrapped = get_peft_model(model, with_tag_rows(peft, model, tokenizer))
        trainable = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    tokens = longest * args.per_device_train_batch_size
    wide = text.intermediate_size
    compute = 2 if args.bf16 or args.fp16 else width
    # What a layer keeps for its backward pass; checkpointing keeps its input and one layer's whole.
    layer = tokens * compute * (10 * text.hidden_size + 4 * wide)
    kept = tokens * compute * text.hidden_size * text.num_hidden_layers
    activations = kept + layer if args.gradient_checkpointing else layer * text.num_hidden_layers
    return Memory(
        parameters=parameters,
        trainable=trainable,
        weights=max(parameters - trainable, 0) * width + trainable * 4,
        gradients=trainable * 4,
        optimizer=2 * trainable * 4,
        activations=activations,
    )


def sound(path: str, args: MultiverseSFTConfig, dataset: Any) -> Any:
    """The rows of ``dataset`` that screening keeps, as they are."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    preparation = _Preparation(tokenizer, args, next(iter(dataset)))
    preparation._prepare_dataset(dataset, tokenizer, args, False, None, "train")
    return dataset.select(preparation.screenings["train"].rows)


def rehearse(
    path: str, args: MultiverseSFTConfig, train: Any, evaluate: Any, peft: Any
) -> Iterator[str]:
    """The report of a dry run, line by line."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    preparation = _Preparation(tokenizer, args, next(iter(train)))
    longest = 0
    for name, dataset, packing in (
        ("train", train, args.packing),
        ("eval", evaluate, args.packing if args.eval_packing is None else args.eval_packing),
    ):
        if dataset is None:
            continue
        rows = preparation._prepare_dataset(dataset, tokenizer, args, packing, None, name)
        if name not in preparation.screenings:
            yield f"{name}: streamed; examples are screened as they are read"
            longest = max(longest, args.max_length or 0)
            continue
        for line in preparation.screenings[name].lines():
            yield f"{name}: {line}"
        if packing:
            yield f"{name}: packed into {len(rows)} rows of at most {args.max_length} tokens"
        longest = max(longest, *(len(ids) for ids in rows["input_ids"]))
    sharing = "" if args.share_every is None else f", share_every {args.share_every}"
    yield f"variant {args.variant}{sharing}, longest row {longest} tokens"
    need = memory(path, args, longest, tokenizer, peft)
    yield f"{need.parameters:,} parameters, {need.trainable:,} of them trained"
    yield (
        "memory of one process without sharding, estimated: "
        f"weights {need.weights / GIB:.2f} GiB, gradients {need.gradients / GIB:.2f}, "
        f"optimizer {need.optimizer / GIB:.2f}, activations {need.activations / GIB:.2f}, "
        f"together {need.total / GIB:.2f} GiB"
    )
    yield "nothing was trained"
