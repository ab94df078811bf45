"""Supervised fine-tuning from a config: ``multiverse sft --config NAME_OR_FILE [--field value …]``.

``python -m sglang_multiverse.training.sft`` is the same, and what ``accelerate launch -m`` takes.
Every field of TRL's ``SFTConfig``, ``ModelConfig``, ``ScriptArguments`` and
``DatasetMixtureConfig`` may stand in the YAML file or on the command line, which wins.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import IntervalStrategy, get_last_checkpoint
from trl import DatasetMixtureConfig, ModelConfig, get_peft_config, get_quantization_config

from .preflight import check_trainer, warnings_of
from .preflight.memory import configured
from .recipe_files import RECIPES, config_file, recipes
from .refusals import USER_ERRORS, ConfigError, in_a_line, told
from .rehearsal import rehearse, set_up
from .settings import SFTScriptArguments, parse
from .sources import load, model_path, split
from .trainer import MultiverseSFTConfig, MultiverseSFTTrainer


def run(
    script: SFTScriptArguments,
    args: MultiverseSFTConfig,
    model: ModelConfig,
    mixture: DatasetMixtureConfig,
) -> MultiverseSFTTrainer | None:
    """Train, or rehearse; returns the trainer when it has trained and saved.

    Raises:
        ValueError: one of this package's errors, in a line; a dry run and training raise the same.
    """
    path = model_path(model.model_name_or_path)
    sharding = script.accelerate_config and configured(script.accelerate_config)
    _check_output(args.output_dir)
    _check_template(args.chat_template_path)
    if args.push_to_hub:
        with told("push_to_hub cannot log in", "run `hf auth login`, or set push_to_hub: false"):
            HfApi(token=args.hub_token).whoami()
    args.resume_from_checkpoint = _checkpoint(args)
    found = load(script, mixture)
    train = split(found, script.dataset_train_split, "dataset_train_split")
    evaluate, notes = _evaluated(found, script, args)
    args.model_init_kwargs = {
        "revision": model.model_revision,
        "dtype": model.dtype,
        **({"attn_implementation": model.attn_implementation} if model.attn_implementation else {}),
        **(args.model_init_kwargs or {}),
    }
    with told("these settings cannot be used", "see `multiverse sft --help`"):
        more = {
            "eval_dataset": evaluate,
            "quantization_config": get_quantization_config(model),
            "peft_config": _lora(model),
        }
    if script.dry_run:
        report = rehearse(path, args, train, sharding=sharding or None, **more)
        for line in chain(notes, report):
            if args.process_index == 0:
                print(line)
        return None
    trainer = set_up(MultiverseSFTTrainer, path, args, train, **more)
    check_trainer(trainer)
    trainer.data_names = [one.path for one in mixture.datasets] or [script.dataset_name]
    if trainer.accelerator.is_main_process:
        counts = [f"{k}: {line}" for k, one in trainer.screenings.items() for line in one.lines()]
        for line in (*notes, *counts, *warnings_of(trainer, train)):
            print(line)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.accelerator.print(f"the trained model is in {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    trainer.end()
    return trainer


def _lora(model: ModelConfig) -> Any:
    """TRL's LoRA config. It makes one target a pattern for whole names, which no layer's is."""
    peft = get_peft_config(model)
    target = getattr(peft, "target_modules", None)
    if isinstance(target, str) and target != "all-linear" and re.fullmatch(r"[\w.]+", target):
        peft.target_modules = {target}
    return peft


def _evaluated(found: Any, script: SFTScriptArguments, args: Any) -> tuple[Any, list[str]]:
    """The rows to evaluate on. Without a split of the default name there is no evaluation."""
    name = script.dataset_test_split
    if args.eval_strategy == "no":
        return None, []
    default = SFTScriptArguments.dataset_test_split
    if name in found or name != default:
        return split(found, name, "dataset_test_split", ", or set eval_strategy: 'no'"), []
    if args.load_best_model_at_end or args.save_strategy == "best":
        raise ConfigError(
            f"the best checkpoint is chosen by evaluation, and the dataset has no split {name!r}; "
            "name one with dataset_test_split, or set load_best_model_at_end: false and another "
            "save_strategy"
        )
    args.eval_strategy, args.do_eval, args.eval_generations = IntervalStrategy.NO, False, 0
    return None, [f"no evaluation: the dataset has no split {name!r} (dataset_test_split)"]


def _check_output(folder: str) -> None:
    if not folder:
        raise ConfigError("output_dir is empty; name a folder")
    place = Path(folder).absolute()
    if place.exists() and not place.is_dir():
        raise ConfigError(f"output_dir {folder} is a file; choose a folder")
    there = next(one for one in (place, *place.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"output_dir {folder}: {there} cannot be written to; choose another folder"
        )


def _check_template(path: str | None) -> None:
    """A template's file is asked for here; other names may be a model's."""
    if path is not None and path.endswith((".jinja", ".j2")) and not Path(path).is_file():
        raise ConfigError(
            f"no such file: chat_template_path {path} (looked in {Path(path).absolute().parent})"
        )


def _checkpoint(args: MultiverseSFTConfig) -> str | None:
    """The folder to go on from."""
    given = args.resume_from_checkpoint
    if not given:
        return None
    if given is True:
        last = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
        if last is None:
            raise ConfigError(
                f"there is no checkpoint in {args.output_dir} to resume from; name its folder, or "
                "leave out resume_from_checkpoint"
            )
        return last
    files = [one.name for one in Path(given).iterdir()] if Path(given).is_dir() else []
    for lacking, there in (
        (TRAINER_STATE_NAME, TRAINER_STATE_NAME in files),
        ("weights", any(re.search(_WEIGHTS, name) for name in files)),
    ):
        if not there:
            raise ConfigError(
                f"resume_from_checkpoint {given} is no checkpoint: it holds no {lacking}; name a "
                "folder checkpoint-N of an output_dir"
            )
    with told(f"{given}/{TRAINER_STATE_NAME} cannot be read", "resume from another checkpoint"):
        TrainerState.load_from_json(str(Path(given) / TRAINER_STATE_NAME))
    return given


#: Files and folders of weights, whole, sharded, an adapter's, FSDP's and DeepSpeed's.
_WEIGHTS = r"\.(safetensors|bin)$|\.index\.json$|^pytorch_model_fsdp|^global_step"


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        run(*parse(sys.argv[1:] if arguments is None else arguments))
    except USER_ERRORS as error:
        raise SystemExit(f"multiverse sft: {in_a_line(error)}") from error


__all__ = [
    "RECIPES",
    "ConfigError",
    "SFTScriptArguments",
    "config_file",
    "main",
    "parse",
    "recipes",
    "run",
]

if __name__ == "__main__":
    main()
