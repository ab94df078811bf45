"""TRL's supervised fine-tuning, with the layout and attention of forked texts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

from accelerate.logging import get_logger
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from ..layout import LAYOUT_VERSION
from .attention import default_implementation, enable_multiverse_attention
from .card import Facts, model_card
from .collator import MultiverseCollator, Variant, check_sharing
from .loading import check_fit, embedding_rows, load_model, load_tokenizer
from .lora import ready_head, save_record, with_tag_rows
from .modes import PromptMode
from .preparation import Preparation, check_filled
from .refusals import ConfigError
from .screen import Policy, Screening
from .validity import StructureValidity

logger = get_logger(__name__)


_LEAST = {
    "max_length": 1,
    "eval_generations": 0,
    "eval_max_new_tokens": 1,
    "learning_rate": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "pad_to_multiple_of": 1,
    "dataset_num_proc": 1,
    "dataloader_num_workers": 0,
}


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
        curriculum: make eight passes over parallel data, from its autoregressive twin to itself.
        eval_generations: answers to generate at every evaluation, whose structure is checked.

    Raises:
        ConfigError: settings that contradict one another, or that this machine cannot do.
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
    curriculum: bool = field(
        default=False,
        metadata={
            "help": "Make eight passes over parallel data, from its autoregressive twin to itself."
        },
    )
    eval_generations: int = field(
        default=0,
        metadata={"help": "Answers to generate, and check the structure of, at every evaluation."},
    )
    eval_max_new_tokens: int = field(
        default=1024, metadata={"help": "Longest path of such an answer, in steps."}
    )

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ValueError as error:
            if "bf16/gpu" not in str(error):
                raise
            raise ConfigError(
                "bf16 is set, and there is no GPU with bfloat16 here; run where there is one, or "
                "train on the CPU with use_cpu: true (older GPUs: bf16: false, fp16: true)"
            ) from error
        for name, kind in (
            ("variant", Variant),
            ("overlong", Policy),
            ("malformed", Policy),
            ("prompt_mode", PromptMode),
        ):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(f"{name}={value!r} is none of {', '.join(get_args(kind))}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:  # nan is not, either
                raise ConfigError(f"{name} is {value}; give it {least} or more")
        try:
            check_sharing(self.share_every, self.variant)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.eval_generations and self.variant in ("no-mask", "no-positions"):
            raise ConfigError(
                f"variant={self.variant!r} is trained under a layout that no engine decodes; leave "
                "out eval_generations"
            )
        self._check_curriculum()
        self._check_texts()

    def _check_curriculum(self) -> None:
        if not self.curriculum:
            return
        if self.train_sampling_strategy != "sequential" or self.packing or self.shuffle_dataset:
            raise ConfigError(
                "curriculum needs its rows in their order: set train_sampling_strategy: "
                "sequential, packing: false, shuffle_dataset: false"
            )
        if self.variant != "multiverse":
            raise ConfigError(
                f"curriculum leads to variant: multiverse, not {self.variant}; set one of them"
            )
        if self.prompt_mode not in ("as-is", "auto"):
            raise ConfigError(
                "curriculum asks for parallel or sequential steps by itself, as prompt_mode: auto "
                f"does; leave out prompt_mode: {self.prompt_mode}"
            )

    def _check_texts(self) -> None:
        if self.truncation_mode != "keep_start":
            raise ConfigError(
                f"truncation_mode={self.truncation_mode!r} would begin texts inside a block; use "
                "'keep_start'"
            )
        if self.packing and self.packing_strategy != "bfd":
            raise ConfigError(
                f"packing_strategy={self.packing_strategy!r} cuts texts into pieces that begin "
                "inside a block; use 'bfd'"
            )
        if (self.packing or self.eval_packing) and self.max_length is None:
            raise ConfigError("packing fills rows of max_length tokens; set max_length")
        if self.padding_free and not self.packing:
            raise ConfigError("padding_free has no row to lay out; use packing=True for no padding")
        if (self.dataset_kwargs or {}).get("skip_prepare_dataset") and (
            self.variant == "autoregressive" or self.prompt_mode != "as-is" or self.curriculum
        ):
            raise ConfigError(
                "skip_prepare_dataset leaves texts as they are; the autoregressive variant, "
                "prompt_mode and curriculum change them: leave it out"
            )


class MultiverseSFTTrainer(SFTTrainer):
    """:class:`trl.SFTTrainer` under the layout's mask and positions. Arguments are its own.

    A model given by name is loaded with the attention that is fastest here. With a
    ``peft_config``, LoRA also trains the rows of the dialect's tags. A card of the model is written
    beside every checkpoint.

    Attributes:
        screenings: what was kept and dropped, by name of the dataset.
        data_names: what the card says it was trained on.

    Raises:
        ValueError: one of this package's errors: a line with what was wrong, where, and what to do.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "sft", "multiverse"]

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: MultiverseSFTConfig | None = None,
        data_collator: None = None,
        processing_class: Any = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        if data_collator is not None:
            raise ValueError("the collator lays the texts out and cannot be replaced; leave it out")
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = MultiverseSFTConfig(f"{name.split('/')[-1] or 'model'}-Multiverse-SFT")
        if not isinstance(args, MultiverseSFTConfig):
            raise TypeError(f"args must be a MultiverseSFTConfig, not {type(args).__name__}")
        if (args.dataset_kwargs or {}).get("skip_prepare_dataset"):
            logger.warning("skip_prepare_dataset: examples are not screened")
        given = args.model_init_kwargs
        if processing_class is None:
            path = model if isinstance(model, str) else model.config._name_or_path
            processing_class = load_tokenizer(path, args)
        if isinstance(model, str):
            args.model_init_kwargs = {
                "attn_implementation": default_implementation(model),
                **(given or {}),
            }
            model = self._load(model, args, quantization_config)
            args.model_init_kwargs = None  # used up; TRL would warn that it does not read them
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        if tokenizer.eos_token is None and args.eos_token is None:
            raise ConfigError(
                "the tokenizer has no end-of-text token, so that answers would never end; set "
                "eos_token to one of its tokens"
            )
        check_filled(kwargs.get("train_dataset"), "train")  # TRL would ask it for its first row
        dialect = check_fit(model, tokenizer)
        enable_multiverse_attention(model)  # before the data, whose preparation may take long
        if isinstance(peft_config, LoraConfig):
            peft_config = with_tag_rows(peft_config, model, tokenizer)
        collate = partial(
            MultiverseCollator,
            pad_to_multiple_of=args.pad_to_multiple_of,
            dialect=dialect,
            loss_on_injected=args.loss_on_injected,
            variant=args.variant,
            share_every=args.share_every,
        )
        self.screenings: dict[str, Screening] = {}
        self.data_names: list[str] = []
        self.preparation = Preparation(
            args, tokenizer, dialect, embedding_rows(model), collate(pad_token_id=0)
        )
        self._prepared: set[str] = set()
        self._counted: tuple[float, float] | None = None
        super().__init__(
            model, args, processing_class=processing_class, peft_config=peft_config, **kwargs
        )
        args.model_init_kwargs = given
        ready_head(self.model)
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise ConfigError(
                "context and sequence parallelism drop the mask and would train plain causal "
                "attention; set cp_size and sp_size to 1"
            )
        enable_multiverse_attention(self.model)  # what PEFT has made of it
        self._record(args)
        # TRL forbids a collator of one's own beside packing, so it is set after the fact.
        self.data_collator = collate(pad_token_id=self.data_collator.pad_token_id)
        if args.eval_generations:
            self.add_callback(StructureValidity(self, dialect))

    def _load(self, path: str, args: MultiverseSFTConfig, quantization_config: Any) -> Any:
        return load_model(path, args, quantization_config)

    def _record(self, args: MultiverseSFTConfig) -> None:
        """Write into the model's config which layout its weights will know."""
        if args.variant == "autoregressive":  # an ordinary model's weights
            vars(self.model.config).pop("multiverse", None)
            return
        self.model.config.multiverse = {
            "layout": LAYOUT_VERSION if args.variant == "multiverse" else args.variant,
            **({"share_every": args.share_every} if args.share_every is not None else {}),
        }

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
        if isinstance(dataset, Dataset) and dataset._fingerprint in self._prepared:
            return dataset  # TRL prepares again what is passed to evaluate
        prepare = super()._prepare_dataset

        def render(texts: Any, settings: Any, packing: bool, formatting: Any) -> Any:
            return prepare(texts, processing_class, settings, packing, formatting, dataset_name)

        done, counts = self.preparation(dataset, dataset_name, packing, formatting_func, render)
        if counts is not None:
            self.screenings[dataset_name] = counts
            for line in counts.lines():
                logger.info(f"{dataset_name}: {line}")
        if isinstance(done, Dataset):
            self._prepared.add(done._fingerprint)
        return done

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        folder = output_dir or self.args.output_dir
        if isinstance(self.model, PeftModel):  # an adapter alone does not say what it was laid by
            save_record(self.model, folder)
        self._write_card(folder)  # last: PEFT writes one of its own

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """The card of :mod:`sglang_multiverse.training.card` in place of TRL's."""
        if self.is_world_process_zero():
            self._write_card(self.args.output_dir, model_name, dataset_name, tags)

    def _write_card(
        self,
        folder: str,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        names = [dataset_name] if dataset_name and not self.data_names else self.data_names
        facts = Facts(
            name=model_name or Path(self.args.output_dir).resolve().name,
            base=self.model.config._name_or_path,
            adapter=isinstance(self.model, PeftModel),
            variant=self.args.variant,
            share_every=self.args.share_every,
            curriculum=self.args.curriculum,
            data=names,
            screenings=self.screenings,
            tags=sorted({*self._tag_names, *([tags] if isinstance(tags, str) else tags or ())}),
            steps=self.state.global_step,
        )
        (Path(folder) / "README.md").write_text(model_card(facts), encoding="utf-8")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with the tokens trained on a second since the last time."""
        now = (time.monotonic(), self._total_train_tokens)
        if self._counted is not None and now[1] > self._counted[1]:
            seconds, tokens = (a - b for a, b in zip(now, self._counted, strict=True))
            logs["tokens_per_second"] = round(tokens / max(seconds, 1e-9), 1)
        # Between two logs of training alone: an evaluation in between would count as slow training.
        self._counted = now if self.model.training else None
        super().log(logs, start_time)
