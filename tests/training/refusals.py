"""Every way in which fine-tuning is refused, as configs and data of a user."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2Tokenizer,
)

from sglang_multiverse.tiny.dataset import tiny_rows
from sglang_multiverse.tiny.factory.model import tiny_tokenizer
from sglang_multiverse.training.recipe_files import RECIPES

Row = dict[str, Any]

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
}


@dataclass
class Room:
    """A folder in which a case lays out its files."""

    folder: Path

    def data(self, rows: list[Row] | str | None = None, name: str = "rows.jsonl") -> str:
        """The path of a file of ``rows``, or of a text as it is."""
        if rows is None:
            rows = tiny_rows(0, "train", 3)
        if not isinstance(rows, str):
            rows = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / name).write_text(rows)
        return str(self.folder / name)

    def config(self, fields: Row | str, **more: Any) -> list[str]:
        """Flags for the tiny recipe with ``fields`` in its YAML file."""
        if isinstance(fields, dict):
            recipe = yaml.safe_load((RECIPES / "tiny.yaml").read_text())
            fields = yaml.safe_dump({**recipe, **SHORT, **fields, **more})
        (self.folder / "config.yaml").write_text(fields)
        return ["--config", str(self.folder / "config.yaml")]

    def model(
        self, config: PreTrainedConfig | None = None, *, made: Any = None, **changes: Any
    ) -> list[str]:
        """A flag for a model of random weights, with the tiny model's tokenizer."""
        tokenizer = tiny_tokenizer()
        if config is None:
            config = Qwen2Config(**{"vocab_size": len(tokenizer), **SHAPE, **changes})
        model = AutoModelForCausalLM.from_config(config) if made is None else made(config)
        model.save_pretrained(self.folder / "model")
        tokenizer.save_pretrained(self.folder / "model")
        return ["--model_name_or_path", str(self.folder / "model")]

    def with_tokenizer(self, change: Callable[[Qwen2Tokenizer], Any]) -> list[str]:
        """A flag for such a model whose tokenizer was changed."""
        flags = self.model()
        tokenizer = tiny_tokenizer()
        change(tokenizer)
        (self.folder / "model" / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(self.folder / "model")
        return flags

    def edited(self, **changes: Any) -> list[str]:
        """A flag for such a model whose ``config.json`` was edited."""
        flags = self.model()
        file = self.folder / "model" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return flags


#: What the tiny recipe is cut to.
SHORT: Row = {
    "max_steps": 1,
    "tiny_rows": 4,
    "eval_strategy": "no",
    "eval_generations": 0,
    "disable_tqdm": True,
}


def _row(**changes: Any) -> Row:
    return {**tiny_rows(0, "train", 1)[0], **changes}


def _text(**changes: Any) -> Row:
    return {"prompt": "2+2? ", "completion": "<Think>\nFour.\n</Think>\n\nAnswer: 4", **changes}


def _dataset(*rows: Row, flags: tuple[str, ...] = ()) -> Callable[[Room], list[str]]:
    return lambda room: ["--dataset_name", room.data(list(rows)), *flags]


def _flags(*flags: str) -> Callable[[Room], list[str]]:
    return lambda room: list(flags)


def _fields(**fields: Any) -> Callable[[Room], list[str]]:
    return lambda room: room.config(fields)


def _folder(room: Room, name: str, *files: tuple[str, str]) -> str:
    (room.folder / name).mkdir()
    for file, text in files:
        (room.folder / name / file).write_text(text)
    return str(room.folder / name)


def _lacking(room: Room) -> list[str]:
    flags = room.model(tie_word_embeddings=False)
    weights = load_file(room.folder / "model" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, room.folder / "model" / "model.safetensors", {"format": "pt"})
    return flags


def _packed_file(room: Room) -> list[str]:
    return [
        "--dataset_name",
        room.data([{"input_ids": [5, 6], "labels": [5, 6], "seq_lengths": [1, 1]}]),
    ]


def _strip_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None


def _strict_template(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"


def _without_end(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    tokenizer.pad_token = None


def _tall_tokenizer(tokenizer: Any) -> None:
    tokenizer.add_tokens([f"word{i}" for i in range(100)])


LORA = ("--use_peft", "true", "--lora_target_modules", "q_proj")


def _vision(room: Room) -> list[str]:
    config = Gemma3Config(
        text_config={**SHAPE, "vocab_size": len(tiny_tokenizer())},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=1,
    )
    return room.model(config, made=Gemma3ForConditionalGeneration)


#: Name: flags that make training refuse. Each is run once as it is and once as a dry run.
CASES: dict[str, Callable[[Room], list[str]]] = {
    # The command line and the config file.
    "a recipe mistyped": _flags("--config", "tinny"),
    "a folder as config": lambda room: ["--config", str(room.folder)],
    "no config named": _flags("--config"),
    "a config that is no YAML": lambda room: room.config("a: [1\nb"),
    "a config of bytes": lambda room: _bytes(room),
    "an empty config": lambda room: room.config(""),
    "a config of numbers": lambda room: room.config("1: 2"),
    "a config that is a list": lambda room: room.config("- 1\n- 2"),
    "a flag mistyped": _flags("--learning_rte", "1"),
    "a word too many": _flags("now"),
    "a flag of another kind": _flags("--learning_rate", "fast"),
    "a choice that is none": _flags("--variant", "dense"),
    "a field mistyped": _fields(learning_rte=1),
    "a list for a number": _fields(learning_rate=[1, 2]),
    "a mapping for a name": _fields(run_name={"a": 1}),
    "a truth for a number": _fields(max_length=True),
    "a word for a list": _fields(datasets="tiny"),
    "a number for a list": _fields(lora_target_modules=7),
    "a choice in the file that is none": _fields(variant="dense"),
    "a dataset entry without path": _fields(datasets=[{"split": "train"}]),
    "a dataset entry mistyped": _fields(datasets=[{"path": "tiny", "splt": "train"}]),
    "two precisions": _flags("--fp16", "true", "--bf16", "true"),
    "bf16 without a GPU": _flags("--bf16", "true", "--use_cpu", "false"),
    # Settings that contradict one another.
    "a batch of nothing": _flags("--per_device_train_batch_size", "0"),
    "a learning rate that is none": _flags("--learning_rate", "nan"),
    "steps of nothing": _flags("--gradient_accumulation_steps", "0"),
    "parallelism in the config": _fields(parallelism_config={"cp_size": 2}),
    "checkpointing with settings of none": _fields(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"nonsense": 3}
    ),
    "kernels that are not installed": _flags("--use_liger_kernel", "true"),
    "a template that is nowhere": _flags("--chat_template_path", "nowhere.jinja"),
    "a length of nothing": _flags("--max_length", "0"),
    "sharing by nothing": _flags("--share_every", "0"),
    "sharing in an ablation": _flags("--share_every", "8", "--variant", "no-mask"),
    "generations of an ablation": _flags("--variant", "no-mask", "--eval_generations", "2"),
    "a curriculum in random order": _flags("--curriculum", "true"),
    "a curriculum to another variant": _flags(
        *("--curriculum", "true", "--train_sampling_strategy", "sequential"),
        *("--variant", "no-mask"),
    ),
    "a curriculum of one mode": _flags(
        *("--curriculum", "true", "--train_sampling_strategy", "sequential"),
        *("--prompt_mode", "parallel"),
    ),
    "a curriculum of a stream": lambda room: [
        *("--curriculum", "true", "--train_sampling_strategy", "sequential"),
        *("--dataset_name", room.data(), "--dataset_streaming", "true"),
    ],
    "texts cut in front": _flags("--truncation_mode", "keep_end"),
    "packing that cuts": _flags("--packing", "true", "--packing_strategy", "wrapped"),
    "packing without a length": _fields(packing=True, max_length=None),
    "no padding without packing": _flags("--padding_free", "true"),
    "texts as they are, made over": _fields(
        dataset_kwargs={"skip_prepare_dataset": True}, prompt_mode="auto"
    ),
    "a stream without an end": lambda room: [
        *("--dataset_name", room.data(), "--dataset_streaming", "true", "--max_steps", "-1"),
    ],
    "a tracker that is not installed": _flags("--report_to", "neptune_of_old"),
    "an optimizer that is not installed": _flags("--optim", "adamw_8bit"),
    "an optimizer that cannot be made": _flags("--adam_beta1", "1.5"),
    "no step to take": _flags("--max_steps", "-1", "--num_train_epochs", "0"),
    "no full batch": lambda room: [
        *("--dataset_name", room.data(), "--dataloader_drop_last", "true"),
        *("--per_device_train_batch_size", "64"),
    ],
    "a scheduler without its settings": _flags("--lr_scheduler_type", "cosine_with_min_lr"),
    "the best of no evaluation": lambda room: [
        *("--dataset_name", room.data(), "--eval_strategy", "epoch", "--save_strategy", "epoch"),
        *("--load_best_model_at_end", "true"),
    ],
    "resuming from nothing": _flags("--resume_from_checkpoint", "true"),
    "resuming from another folder": lambda room: [
        "--resume_from_checkpoint",
        str(room.folder),
    ],
    "resuming without weights": lambda room: [
        "--resume_from_checkpoint",
        _folder(room, "checkpoint-1", ("trainer_state.json", "{}")),
    ],
    "resuming from a broken state": lambda room: [
        "--resume_from_checkpoint",
        _folder(room, "checkpoint-1", ("trainer_state.json", "{"), ("a.safetensors", "")),
    ],
    "an accelerate config that is nowhere": _flags("--accelerate_config", "nowhere.yaml"),
    "an accelerate config that is none": lambda room: [
        "--accelerate_config",
        room.data("a: [", "accelerate.yaml"),
    ],
    "a Hub without a login": _flags("--push_to_hub", "true", "--hub_token", "hf_none"),
    "nowhere to write": lambda room: ["--output_dir", ""],
    "a file to write into": lambda room: ["--output_dir", room.data()],
    "a folder below a file": lambda room: ["--output_dir", room.data() + "/out"],
    "an adapter of the output table": _flags(
        "--use_peft", "true", "--lora_target_modules", "lm_head"
    ),
    # The model.
    "no model": _fields(model_name_or_path=None),
    "a model that is a file": lambda room: ["--model_name_or_path", room.data()],
    "a model that is nowhere": _flags("--model_name_or_path", "./nowhere"),
    "a model that is an adapter": lambda room: [
        "--model_name_or_path",
        _folder(room, "adapter", ("adapter_config.json", "{}")),
    ],
    "a model without config": lambda room: ["--model_name_or_path", _folder(room, "hollow")],
    "a config that is no model's": lambda room: [
        "--model_name_or_path",
        _folder(room, "odd", ("config.json", "{}")),
    ],
    "a model without tokenizer": lambda room: _without_tokenizer(room),
    "a model without weights": lambda room: _without_weights(room),
    "weights that lack a table": _lacking,
    "weights of other shapes": lambda room: room.edited(hidden_size=64),
    "weights that are damaged": lambda room: _damaged(room, "model.safetensors"),
    "weights that are cut off": lambda room: _cut(room),
    "a layout that is none": lambda room: room.edited(multiverse="yes"),
    "a tokenizer that is damaged": lambda room: _damaged(room, "tokenizer.json"),
    "a dtype that is none": _fields(model_init_kwargs={"dtype": "float7"}),
    "flash attention that is not installed": _flags("--attn_implementation", "flash_attention_2"),
    "attention that is none": _flags("--attn_implementation", "nonsense"),
    "attention without a mask": _flags("--attn_implementation", "paged|eager"),
    "FlexAttention on a CPU": _flags("--attn_implementation", "flex_attention"),
    "four bits without the package": _flags("--load_in_4bit", "true"),
    "quantization set twice": lambda room: room.config(
        {"load_in_8bit": True, "model_init_kwargs": {"quantization_config": {"bits": 8}}}
    ),
    "a model of images, too": _vision,
    "layers of chunks": lambda room: room.edited(
        layer_types=["chunked_attention", "full_attention"]
    ),
    "scores with a cap": lambda room: room.edited(attn_logit_softcapping=30.0),
    "attention both ways": lambda room: room.edited(is_causal=False),
    "rotary frequencies that change": lambda room: room.edited(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "weights of another layout": lambda room: room.edited(multiverse={"layout": 0}),
    "a window shorter than a text": lambda room: room.edited(
        use_sliding_window=True,
        sliding_window=32,
        max_window_layers=0,
        layer_types=["sliding_attention", "sliding_attention"],
    ),
    "attention that drops weights": lambda room: room.model(attention_dropout=0.1),
    "scores that are capped": lambda room: room.model(
        Gemma2Config(**{**SHAPE, "vocab_size": len(tiny_tokenizer()), "query_pre_attn_scalar": 8})
    ),
    "a tokenizer without tags": lambda room: _tagless(room),
    "tags without rows": lambda room: room.model(vocab_size=300),
    "tokens without rows": lambda room: room.with_tokenizer(_tall_tokenizer),
    "LoRA on the embedding": _flags("--use_peft", "true", "--lora_target_modules", "embed_tokens"),
    "a shared table torn apart": _flags(*LORA, "--lora_modules_to_save", "lm_head"),
    "LoRA for another task": _flags("--use_peft", "true", "--lora_task_type", "SINGING"),
    "LoRA on nothing": _flags("--use_peft", "true", "--lora_target_modules", "no_such_layer"),
    # The data.
    "no data": _fields(dataset_name=None),
    "data that are nowhere": _flags("--dataset_name", "./nowhere.jsonl"),
    "a listed file that is nowhere": _fields(datasets=[{"path": "nowhere.jsonl"}]),
    "data of another kind": lambda room: ["--dataset_name", room.data("", "rows.txt")],
    "an empty folder of data": lambda room: ["--dataset_name", _folder(room, "none")],
    "an empty file": lambda room: ["--dataset_name", room.data("")],
    "a file of blank lines": lambda room: ["--dataset_name", room.data("\n \n")],
    "a file that is no JSON": lambda room: ["--dataset_name", room.data("{a")],
    "a split that is none": lambda room: [
        *("--dataset_name", room.data(), "--eval_strategy", "epoch"),
        *("--dataset_test_split", "held"),
    ],
    "a split without rows": lambda room: room.config(
        {"datasets": [{"path": room.data(), "split": "train[:0]"}]}
    ),
    "a saved dataset without rows": lambda room: _no_rows(room),
    "rows of a number below one": _flags("--tiny_rows", "0"),
    "other columns": _dataset({"question": "2+2?", "answer": "4"}),
    "a prompt without completion": _dataset({"prompt": "2+2?"}),
    "rows that are packed": _packed_file,
    "ids beyond the model": _dataset({"input_ids": [5, 10**6], "labels": [5, 6]}),
    "ids that are none": _dataset({"input_ids": ["a"], "labels": [1]}),
    "labels that are words": _dataset({"input_ids": [5, 6], "labels": ["a", "b"]}),
    "a label too few": _dataset({"input_ids": [5, 6], "labels": [5]}),
    "a completion that is null": _dataset(_row(), _row(completion=None)),
    "a null in a stream": _dataset(
        _row(), _row(completion=None), flags=("--dataset_streaming", "true")
    ),
    "a null in a stream that a worker reads": _dataset(
        *(_row(), _row(completion=None)),
        flags=("--dataset_streaming", "true", "--dataloader_num_workers", "1"),
    ),
    "a completion that is empty": _dataset(_text(completion=" ")),
    "a completion that is a number": _dataset(_text(completion=4)),
    "a prompt of no messages": _dataset(_row(prompt=[])),
    "a prompt of words": _dataset(_row(prompt=["2+2?"])),
    "a prompt of parts": _dataset(
        _row(prompt=[{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}])
    ),
    "a message without content": _dataset(_row(prompt=[{"role": "user", "content": None}])),
    "a message without role": _dataset(_row(prompt=[{"from": "user", "value": "2+2?"}])),
    "a text beside messages": _dataset(_row(prompt="2+2?")),
    "a text in a row after messages": _dataset(_row(), _text()),
    "messages that are a text": _dataset({"messages": "2+2?"}),
    "messages without an answer": _dataset({"messages": [{"role": "user", "content": "2+2?"}]}),
    "conversations of none": _dataset({"conversations": []}),
    "conversations of words": _dataset({"conversations": ["2+2?"]}),
    "tools that are no JSON": _dataset(_row(tools="{")),
    "tools that are a number": _dataset(_row(tools=5)),
    "template settings that are a word": _dataset(_row(chat_template_kwargs="x")),
    "a text column of messages": _dataset({"text": [{"role": "user", "content": "2+2?"}]}),
    "a mode of texts without questions": _dataset(
        {"text": "2+2=4"}, flags=("--prompt_mode", "auto")
    ),
    "a mode without a user's turn": _dataset(
        _row(prompt=[{"role": "system", "content": "Add."}]), flags=("--prompt_mode", "auto")
    ),
    "a curriculum of texts without questions": _dataset(
        {"text": "2+2=4"},
        flags=("--curriculum", "true", "--train_sampling_strategy", "sequential"),
    ),
    "a baseline of texts without answers": _dataset(
        {"text": "2+2=4"}, flags=("--variant", "autoregressive")
    ),
    "assistants' loss of plain texts": _dataset(_text(), flags=("--assistant_only_loss", "true")),
    "messages without a chat template": lambda room: room.with_tokenizer(_strip_template),
    "messages the chat template refuses": lambda room: room.with_tokenizer(_strict_template),
    "texts without an end": lambda room: [
        *room.with_tokenizer(_without_end),
        *("--dataset_name", room.data([_text()])),
    ],
    "texts that are all too long": _flags("--max_length", "10"),
    "a text that is too long": _flags("--max_length", "10", "--overlong", "error"),
    "a text that is malformed": _dataset(
        _text(completion="</Path> 4"), flags=("--malformed", "error")
    ),
    "an end token that is none": _flags("--eos_token", "<|none|>"),
}


def _bytes(room: Room) -> list[str]:
    (room.folder / "config.yaml").write_bytes(b"\xff\xfe\x00\x80")
    return ["--config", str(room.folder / "config.yaml")]


def _without_tokenizer(room: Room) -> list[str]:
    flags = room.model()
    for file in (room.folder / "model").glob("*tok*"):
        file.unlink()
    return flags


def _without_weights(room: Room) -> list[str]:
    flags = room.model()
    (room.folder / "model" / "model.safetensors").unlink()
    return flags


def _no_rows(room: Room) -> list[str]:
    Dataset.from_dict({"prompt": [], "completion": []}).save_to_disk(room.folder / "saved")
    return ["--dataset_name", str(room.folder / "saved")]


def _damaged(room: Room, file: str) -> list[str]:
    flags = room.model()
    (room.folder / "model" / file).write_text("{")
    return flags


def _cut(room: Room) -> list[str]:
    flags = room.model()
    file = room.folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return flags


def _tagless(room: Room) -> list[str]:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    flags = room.model()
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="b", pad_token="a").save_pretrained(
        room.folder / "model"
    )
    return flags
