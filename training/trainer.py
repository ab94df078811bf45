"""TRL's supervised fine-tuning, with the layout and attention of forked texts."""

from __future__ import annotations

import copy
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoTokenizer, PreTrainedModel
from trl import SFTConfig, SFTTrainer
from trl.data_utils import get_dataset_column_names

from ..dialect import Dialect
from ..layout import LAYOUT_VERSION
from .attention import enable_multiverse_attention
from .collator import MultiverseCollator, Variant, check_sharing
from .lora import ready_head, save_record, with_tag_rows
from .modes import PromptMode, to_autoregressive, with_prompt_mode
from .screen import Policy, Screening, screen
from .validity import StructureValidity

logger = get_logger(__name__)


@dataclass
class MultiverseSFTConfig(SFTConfig):
    """:class:`trl.SFTConfig` with what forked texts add.

    Attributes:
        variant: ``multiverse``, the ``autoregressive`` baseline (every answer flattened, causal
            attention), or an ablation: ``no-mask`` (the same texts, causal attention) or
            ``no-positions`` (the mask, positions in text order).
        share_every: tokens a path writes before it sees what its siblings have written; None: paths
            see nothing of one another. Of the ``multiverse`` variant alone.
        overlong, malformed: what becomes of an example over ``max_length``, or not in canonical
            form: ``drop``, ``truncate`` (before the block in question) or ``error``.
        prompt_mode: end each question in the sentence for ``parallel`` or ``sequential`` steps, in
            the one its answer calls for (``auto``), or leave it ``as-is``.
        loss_on_injected: train on tokens the engine writes by itself, too; under causal attention
            that is always so.
        eval_generations: answers to generate at every evaluation, whose structure is checked.
    """

    max_length: int | None = field(
        default=32768,
        metadata={
            "help": "Longest text in tokens, see `overlong`. TRL's default of 1024 is short here."
        },
    )
    variant: str = field(
        default="multiverse",
        metadata={
            "help": "What to train: the layout that is served, its autoregressive baseline, or an "
            "ablation.",
            "choices": get_args(Variant),
        },
    )
    share_every: int | None = field(
        default=None,
        metadata={
            "help": "Tokens a path writes before it sees what its siblings have written; without "
            "it, paths see nothing of one another."
        },
    )
    overlong: str = field(
        default="drop",
        metadata={"help": "What becomes of a text over max_length.", "choices": get_args(Policy)},
    )
    malformed: str = field(
        default="drop",
        metadata={
            "help": "What becomes of a text that is not in canonical form.",
            "choices": get_args(Policy),
        },
    )
    prompt_mode: str = field(
        default="as-is",
        metadata={
            "help": "The sentence that ends each question and chooses the mode.",
            "choices": get_args(PromptMode),
        },
    )
    loss_on_injected: bool = field(
        default=False,
        metadata={"help": "Also train on separators and openings that the engine writes itself."},
    )
    eval_generations: int = field(
        default=0,
        metadata={"help": "Answers to generate, and check the structure of, at every evaluation."},
    )
    eval_max_new_tokens: int = field(
        default=1024, metadata={"help": "Longest path of such an answer, in steps."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (
            ("variant", Variant),
            ("overlong", Policy),
            ("malformed", Policy),
            ("prompt_mode", PromptMode),
        ):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ValueError(f"{name}={value!r} is none of {', '.join(get_args(kind))}")
        check_sharing(self.share_every, self.variant)
        if self.eval_generations and self.variant in ("no-mask", "no-positions"):
            raise ValueError(
                f"variant={self.variant!r} is trained under a layout that no engine decodes; leave "
                "out eval_generations"
            )
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

    A model given by name is loaded with FlexAttention where there is a GPU, else with SDPA. With a
    ``peft_config``, LoRA also trains the rows of the dialect's tags.

    Attributes:
        screenings: what was kept and dropped, by name of the dataset.
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
        peft_config = kwargs.pop("peft_config", None)
        if isinstance(peft_config, LoraConfig):
            tokenizer = kwargs.get("processing_class")
            if tokenizer is None:
                name = model if isinstance(model, str) else model.config._name_or_path
                tokenizer = AutoTokenizer.from_pretrained(name)
            peft_config = with_tag_rows(peft_config, model, tokenizer)
        if args is not None and not isinstance(args, MultiverseSFTConfig):
            raise TypeError(f"args must be a MultiverseSFTConfig, not {type(args).__name__}")
        if (args.dataset_kwargs or {}).get("skip_prepare_dataset"):
            if args.variant == "autoregressive" or args.prompt_mode != "as-is":
                raise ValueError(
                    "skip_prepare_dataset leaves texts as they are; the autoregressive variant and "
                    "prompt_mode change them"
                )
            logger.warning("skip_prepare_dataset: examples are not screened")
        self.screenings: dict[str, Screening] = {}
        self._prepared: set[str] = set()
        self._counted: tuple[float, float] | None = None
        super().__init__(model, args, peft_config=peft_config, **kwargs)
        ready_head(self.model)
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise ValueError(
                "context and sequence parallelism drop the mask and would train plain causal "
                "attention; set cp_size and sp_size to 1"
            )
        enable_multiverse_attention(self.model)
        dialect = Dialect.from_tokenizer(self._tokenizer)
        if args.variant == "autoregressive":  # an ordinary model's weights
            vars(self.model.config).pop("multiverse", None)
        else:
            served = args.variant == "multiverse"
            self.model.config.multiverse = {
                "layout": LAYOUT_VERSION if served else args.variant,
                **({"share_every": args.share_every} if args.share_every is not None else {}),
            }
        # TRL forbids a collator of one's own beside packing, so it is set after the fact.
        self.data_collator = MultiverseCollator(
            pad_token_id=self.data_collator.pad_token_id,
            pad_to_multiple_of=args.pad_to_multiple_of,
            dialect=dialect,
            loss_on_injected=args.loss_on_injected,
            variant=args.variant,
            share_every=args.share_every,
        )
        if args.eval_generations:
            self.add_callback(StructureValidity(self, dialect))

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: MultiverseSFTConfig,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Any:
        """TRL's preparation, with each text screened whole before it is packed."""
        columns = get_dataset_column_names(dataset)
        if isinstance(dataset, Dataset) and dataset._fingerprint in self._prepared:
            return dataset  # TRL prepares again what is passed to evaluate
        if "seq_lengths" in columns:
            raise ValueError(
                f"the {dataset_name} dataset is packed already; give the texts one a row, and "
                "packing=True packs them after they are screened"
            )
        tokenised = "input_ids" in columns
        dialect = Dialect.from_tokenizer(self._tokenizer)
        if args.variant == "autoregressive" and (tokenised or formatting_func is not None):
            raise ValueError(
                "the autoregressive variant flattens texts: give it 'prompt' and 'completion' or "
                "'messages', neither tokenised nor through a formatting_func"
            )
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        prepare = super()._prepare_dataset

        def screened(texts: Any) -> tuple[Any, Screening | None]:
            return screen(
                prepare(texts, processing_class, whole, False, formatting_func, dataset_name),
                dialect,
                max_length=args.max_length,
                overlong=args.overlong,
                malformed=args.malformed,
                name=dataset_name,
                num_proc=args.dataset_num_proc,
            )

        mode, dropped = args.prompt_mode, Counter[str]()
        if args.variant == "autoregressive":
            _, parallel = screened(dataset)
            if parallel is not None:  # the twins of what Multiverse training keeps
                dataset, dropped = dataset.select(parallel.rows), parallel.dropped
            dataset = dataset.map(to_autoregressive, fn_kwargs={"spec": dialect.spec})
            mode = "as-is" if mode == "as-is" else "sequential"
        if mode != "as-is" and not tokenised:
            dataset = dataset.map(with_prompt_mode, fn_kwargs={"mode": mode, "spec": dialect.spec})
        dataset, counts = screened(dataset)
        if counts is not None:
            counts.dropped += dropped
            self.screenings[dataset_name] = counts
            for line in counts.lines():
                logger.info(f"{dataset_name}: {line}")
        last = copy.copy(args)
        if not packing:
            last.max_length = None  # screened already: TRL's own passes would change nothing
        done = prepare(dataset, processing_class, last, packing, None, dataset_name)
        if isinstance(done, Dataset):
            self._prepared.add(done._fingerprint)
        return done

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if isinstance(self.model, PeftModel):  # an adapter alone does not say what it was laid by
            save_record(self.model, output_dir or self.args.output_dir)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with the tokens trained on a second since the last time."""
        now = (time.monotonic(), self._total_train_tokens)
        if self._counted is not None and now[1] > self._counted[1]:
            seconds, tokens = (a - b for a, b in zip(now, self._counted, strict=True))
            logs["tokens_per_second"] = round(tokens / max(seconds, 1e-9), 1)
        # Between two logs of training alone: an evaluation in between would count as slow training.
        self._counted = now if self.model.training else None
        super().log(logs, start_time)
