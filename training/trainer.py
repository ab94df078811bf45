"""TRL's supervised fine-tuning, with the layout and attention of forked texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from ..dialect import Dialect
from ..layout import LAYOUT_VERSION
from .attention import enable_multiverse_attention
from .collator import MultiverseCollator


@dataclass
class MultiverseSFTConfig(SFTConfig):
    """:class:`trl.SFTConfig` with what forked texts add.

    Attributes:
        loss_on_injected: train on tokens the engine writes by itself, too.
    """

    max_length: int | None = field(
        default=32768,
        metadata={
            "help": "Longest text in tokens; longer ones lose their end. TRL's 1024 is short."
        },
    )
    loss_on_injected: bool = field(
        default=False,
        metadata={"help": "Also train on separators and openings that the engine writes itself."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.truncation_mode != "keep_start":
            raise ValueError(
                f"truncation_mode={self.truncation_mode!r} would begin texts inside a block; use "
                "'keep_start'"
            )
        if self.packing and self.packing_strategy != "bfd":
            raise ValueError(
                f"packing_strategy={self.packing_strategy!r} cuts texts into pieces that begin "
                "inside a block; use 'bfd'"
            )
        if self.padding_free and not self.packing:
            raise ValueError("padding_free has no row to lay out; use packing=True for no padding")


class MultiverseSFTTrainer(SFTTrainer):
    """:class:`trl.SFTTrainer` under the layout's mask and positions. Arguments are its own.

    A model given by name is loaded with FlexAttention where there is a GPU, else with SDPA.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "sft", "multiverse"]

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: MultiverseSFTConfig | None = None,
        data_collator: None = None,
        **kwargs: Any,
    ) -> None:
        if data_collator is not None:
            raise ValueError("the collator lays the texts out and cannot be replaced")
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = MultiverseSFTConfig(f"{name.split('/')[-1] or 'model'}-Multiverse-SFT")
        if isinstance(model, str):
            args.model_init_kwargs = {
                "attn_implementation": "flex_attention" if torch.cuda.is_available() else "sdpa",
                **(args.model_init_kwargs or {}),
            }
        super().__init__(model, args, **kwargs)
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise ValueError(
                "context and sequence parallelism drop the mask and would train plain causal "
                "attention; set cp_size and sp_size to 1"
            )
        enable_multiverse_attention(self.model)
        self.model.config.multiverse = {"layout": LAYOUT_VERSION}
        # TRL forbids a collator of one's own beside packing, so it is set after the fact.
        self.data_collator = MultiverseCollator(
            pad_token_id=self.data_collator.pad_token_id,
            pad_to_multiple_of=args.pad_to_multiple_of,
            dialect=Dialect.from_tokenizer(self._tokenizer),
            loss_on_injected=args.loss_on_injected,
        )
