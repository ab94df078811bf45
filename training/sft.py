"""Supervised fine-tuning from a config: ``multiverse sft --config NAME_OR_FILE [--field value …]``.

``python -m sglang_multiverse.training.sft`` is the same, and what ``accelerate launch -m`` takes.
Every field of TRL's ``SFTConfig``, ``ModelConfig``, ``ScriptArguments`` and
``DatasetMixtureConfig`` may stand in the YAML file or on the command line, which wins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_peft_config,
    get_quantization_config,
)

from .rehearsal import rehearse, sound
from .sources import in_stages, load, model_path, split
from .trainer import MultiverseSFTConfig, MultiverseSFTTrainer

RECIPES = Path(__file__).parent / "recipes"


class ConfigError(ValueError):
    """A config that cannot be found, or settings that contradict one another."""


@dataclass
class SFTScriptArguments(ScriptArguments):
    """TRL's script arguments and ours."""

    curriculum: bool = field(
        default=False,
        metadata={
            "help": "Make eight passes over parallel data, from its autoregressive twin to itself."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Say what would be trained, and how much memory it takes; train nothing"},
    )
    tiny_rows: int = field(
        default=2000, metadata={"help": "Rows to make where dataset_name is 'tiny'."}
    )
    tiny_seed: int = field(default=0, metadata={"help": "Seed of those rows."})


def recipes() -> list[str]:
    """Names that ``--config`` takes besides a file's."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def config_file(name: str) -> Path:
    """The YAML file for a path or the name of a recipe."""
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    raise ConfigError(f"no config file {name!r}, nor a recipe of that name: {', '.join(recipes())}")


def parse(arguments: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line and the config it names."""
    words = [
        part
        for word in arguments
        for part in (word.split("=", 1) if word.startswith("--config=") else [word])
    ]
    if words[-1:] == ["--config"]:
        raise ConfigError(f"--config needs a file, or a recipe: {', '.join(recipes())}")
    if "--config" in words:
        at = words.index("--config") + 1
        words[at] = str(config_file(words[at]))
    parser = TrlParser(
        (SFTScriptArguments, MultiverseSFTConfig, ModelConfig, DatasetMixtureConfig),
        prog="multiverse sft",
    )
    script, args, model, mixture = parser.parse_args_and_config(args=words)
    if args.resume_from_checkpoint in ("true", "True"):  # the last one, not a folder of that name
        args.resume_from_checkpoint = True
    return script, args, model, mixture


def run(
    script: SFTScriptArguments,
    args: MultiverseSFTConfig,
    model: ModelConfig,
    mixture: DatasetMixtureConfig,
) -> MultiverseSFTTrainer | None:
    """Train, or rehearse; returns the trainer when it has trained and saved."""
    path = model_path(model.model_name_or_path)
    found = load(script, mixture)
    train = split(found, script.dataset_train_split)
    evaluate = args.eval_strategy != "no" and split(found, script.dataset_test_split)
    if script.curriculum:
        if args.train_sampling_strategy != "sequential" or args.packing or args.shuffle_dataset:
            raise ConfigError(
                "curriculum needs its rows in their order: set train_sampling_strategy: "
                "sequential, packing: false, shuffle_dataset: false"
            )
        if args.variant != "multiverse" or script.dataset_streaming:
            raise ConfigError("curriculum needs variant: multiverse and dataset_streaming: false")
        train = in_stages(sound(path, args, train), args.seed)
    args.model_init_kwargs = {
        "revision": model.model_revision,
        "dtype": model.dtype,
        **({"attn_implementation": model.attn_implementation} if model.attn_implementation else {}),
        **(args.model_init_kwargs or {}),
    }
    peft = get_peft_config(model)
    if script.dry_run:
        for line in rehearse(path, args, train, evaluate or None, peft):
            print(line)
        return None
    trainer = MultiverseSFTTrainer(
        path,
        args,
        train_dataset=train,
        eval_dataset=evaluate or None,
        quantization_config=get_quantization_config(model),
        peft_config=peft,
    )
    if trainer.accelerator.is_main_process:
        for name, counts in trainer.screenings.items():
            for line in counts.lines():
                print(f"{name}: {line}")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.accelerator.print(f"the trained model is in {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    trainer.end()
    return trainer


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        run(*parse(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        raise SystemExit(f"multiverse sft: {error}") from error


if __name__ == "__main__":
    main()
