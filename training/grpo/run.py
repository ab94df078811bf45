"""Reinforcement learning from a config: ``multiverse grpo --config NAME_OR_FILE [--field …]``.

``python -m sglang_multiverse.training.grpo`` is the same. It starts SGLang with the plugin (or
uses ``--server_url``), samples from it, trains with TRL's GRPO, gives the server the new weights
after every step, and reports what came of it. All fields of :class:`Run`, of ``trl.GRPOConfig``
and of ``trl.ModelConfig`` are options and fields of the YAML file; options win.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, ModelConfig, TrlParser, get_peft_config

from ...sequencer import Limits
from ...server import Server, ServerError, accelerator
from ...tiny import task
from .. import recipe_files
from ..attention import default_implementation
from ..recipe_files import config_file, read_yaml, recipes
from ..refusals import ConfigError
from ..sources import TINY, model_path
from .engine import EngineClient, EngineError
from .prompts import PromptFormat, Reading, read_splits, that_fit, tiny_splits
from .report import LOG, SUMMARY, StepLog, examine, show
from .rewards import Reward, make_rewards
from .rewards.checked import SECONDS
from .rollout import MultiverseRollout
from .trainer import MultiverseGRPOTrainer, check_columns

RECIPES = recipe_files.RECIPES / "grpo"
_ABOUT = (
    f"--config NAME_OR_FILE takes a recipe ({', '.join(recipes(RECIPES))}) or a YAML file; every "
    "field of it may follow as one of these options, which wins."
)
#: KV of one step's completions; the tiny model's takes 2.5 KiB a token.
CPU_TOKENS = 60_000


@dataclass
class Run:
    """What is trained on what, and where it samples."""

    out: str = field(
        default="runs/grpo", metadata={"help": "Folder for log, summary and the trained model."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from; 'tiny' is the shipped one."}
    )
    dataset_name: str = field(
        default=TINY,
        metadata={
            "help": "A dataset of the Hub, a folder, a .jsonl, .json, .parquet or .csv file, or "
            "'tiny'."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a dataset of the Hub."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str | None = field(
        default=None,
        metadata={
            "help": "Split to examine on; by default test or validation, or else rows held out."
        },
    )
    prompt_column: str = field(
        default="prompt", metadata={"help": "Column of the prompt, a text or messages."}
    )
    prompt_format: PromptFormat = field(
        default="chat",
        metadata={"help": "A prompt that is a text: a user's message, or raw, to be gone on with."},
    )
    ending: str | None = field(
        default=None,
        metadata={
            "help": "The sentence that ends every prompt; 'parallel' and 'sequential' are those of "
            "the dialect."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "A system message before every prompt."}
    )
    answer_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the reference that math compares with; by default answer or "
            "solution."
        },
    )
    reward: list[str] = field(
        default_factory=list,
        metadata={
            "help": "NAME[=WEIGHT][@FIRST-LAST[/WINDOW]]; NAME is math, validity, latency, "
            "parallel, tiny, module:function or file.py:function. May be repeated."
        },
    )
    right: str | None = field(
        default=None,
        metadata={
            "help": "The reward that says which answers are right, for latency and parallel; by "
            "default the first."
        },
    )
    latency_budget: int = field(
        default=1024, metadata={"help": "Critical path, in tokens, that earns no latency reward."}
    )
    reward_seconds: float = field(
        default=SECONDS, metadata={"help": "What a reward may take for one batch."}
    )
    structural_filter: Literal["none", "advantage", "loss"] = field(
        default="none",
        metadata={
            "help": "Answers that are not in canonical form get no reward and are left out of "
            "their group's advantage, or of the loss, too."
        },
    )
    tag_gradient: bool = field(
        default=True, metadata={"help": "Whether tags that the model chose carry loss."}
    )
    path_advantages: bool = field(
        default=False,
        metadata={"help": "Rewards may return one value per path, which its tokens learn from."},
    )
    server_url: str | None = field(
        default=None, metadata={"help": "A running server; without it one is started."}
    )
    server_flags: str = field(
        default="", metadata={"help": "Further flags for the server that is started."}
    )
    weights: Literal["auto", "memory", "distributed", "disk"] = field(
        default="auto", metadata={"help": "How new weights reach the server."}
    )
    weights_dir: str | None = field(
        default=None, metadata={"help": "Folder that 'disk' uses, seen by the server as well."}
    )
    weights_address: str = field(
        default="127.0.0.1",
        metadata={"help": "This machine's address as the server reaches it, for 'distributed'."},
    )
    sync_every: int = field(
        default=1, metadata={"help": "Optimizer steps between weight updates of the server."}
    )
    exam: int = field(
        default=100, metadata={"help": "Unseen questions asked before and after, greedily."}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Make every check that needs neither weights nor a server; train not."},
    )
    kinds: list[str] = field(
        default_factory=lambda: ["compare"],
        metadata={"help": f"Questions of the tiny task: {', '.join(task.ALL_KINDS)}."},
    )

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(task.ALL_KINDS))
        if unknown or not self.kinds:
            raise ConfigError(
                f"kinds: unknown {', '.join(unknown) or '(none given)'}; choose from "
                f"{', '.join(task.ALL_KINDS)}"
            )
        if self.exam < 0:
            raise ConfigError(f"exam: {self.exam} questions; 0 asks none")


def parse(arguments: Sequence[str]) -> tuple[Run, GRPOConfig, ModelConfig]:
    """Read the command line and the config it names.

    Without a config the recipe is ``tiny``, or ``math`` where there is another dataset.
    """
    words = [
        part
        for word in arguments
        for part in (word.split("=", 1) if word.startswith(("--config=", "--reward=")) else [word])
    ]
    if words[-1:] == ["--config"]:
        raise ConfigError(f"--config needs a file, or a recipe: {', '.join(recipes(RECIPES))}")
    if "--config" not in words:
        names = {word.replace("-", "_").split("=")[0] for word in words if word.startswith("--")}
        words = ["--config", "math" if "__dataset_name" in names else TINY, *words]
    at = words.index("--config") + 1
    words[at] = str(config_file(words[at], RECIPES))
    if accelerator() is None and not any("bf16" in word for word in words):
        words += ["--bf16", "false"] if "bf16" not in read_yaml(Path(words[at])) else []
    parser = TrlParser((Run, GRPOConfig, ModelConfig), prog="multiverse grpo", description=_ABOUT)
    try:
        read = parser.parse_args_and_config(args=_gathered(words, "--reward"))
    except ValueError as error:
        unknown = str(error).partition("HfArgumentParser: ")[2]
        if not unknown:
            raise
        raise ConfigError(f"unknown options: {unknown}; --help lists all") from error
    run, config, model = read
    config.dataloader_pin_memory &= accelerator() is not None
    return run, config, model


def _gathered(words: Sequence[str], option: str) -> list[str]:
    """``words`` with what follows each ``option`` behind one: argparse would take the last."""
    kept: list[str] = []
    values: list[str] = []
    inside = False
    for word in words:
        inside = word == option or (inside and not word.startswith("-"))
        if not inside:
            kept.append(word)
        elif word != option:
            values.append(word)
    return [*kept, option, *values] if values else kept


@contextlib.contextmanager
def serving(run: Run, path: str, dtype: str, seed: int, console: Console) -> Iterator[str]:
    """Address of the server to sample from; one that is started here is stopped at the end.

    Raises:
        EngineError: that of the block, with the log of a server that ended meanwhile.
    """
    if run.server_url is not None:
        yield run.server_url
        return
    flags = ["--dtype", dtype, "--random-seed", str(seed)]
    if accelerator() is None:
        flags += ["--max-total-tokens", str(CPU_TOKENS)]
    with console.status("starting SGLang with --plugin multiverse …") as status:
        server = Server(
            path,
            flags=[*flags, *shlex.split(run.server_flags)],
            on_wait=lambda seconds: status.update(f"starting SGLang … {seconds:.0f} s"),
        )
        server.__enter__()
    try:
        yield server.url
    except EngineError as error:
        if server.alive:
            raise
        raise EngineError(f"the server ended, its log is {server.log_path} ({error})") from error
    finally:
        server.stop()


def _rewards(run: Run, config: GRPOConfig) -> list[Reward]:
    """The run's rewards; their weights go into ``config``."""
    rewards, weights = make_rewards(
        run.reward,
        right=run.right,
        latency_budget=run.latency_budget,
        answer_column=run.answer_column,
        per_path=run.path_advantages,
        seconds=run.reward_seconds,
    )
    given = config.reward_weights
    if given is not None and len(given) != len(rewards):
        raise ConfigError(
            f"reward_weights has {len(given)} entries for {len(rewards)} rewards; give weights "
            "with the rewards: --reward NAME=WEIGHT"
        )
    default = given or [1.0] * len(rewards)
    config.reward_weights = [
        base if weight is None else weight for weight, base in zip(weights, default, strict=True)
    ]
    return rewards


def _data(run: Run, config: GRPOConfig) -> tuple[Dataset, Dataset]:
    """Rows to train on and to examine on."""
    if run.dataset_name != TINY:
        return read_splits(
            run.dataset_name,
            Reading(run.prompt_column, run.prompt_format, run.ending, run.system_prompt),
            config=run.dataset_config,
            split=run.dataset_split,
            test_split=run.test_split,
            exam=run.exam,
        )
    if config.max_steps < 1:
        raise ConfigError("the tiny task has no end of questions: set max_steps")
    rows = math.ceil(config.max_steps * config.generation_batch_size / config.num_generations)
    return tiny_splits(config.seed, run.kinds, run.ending, rows, run.exam)


def _tell(
    run: Run,
    config: GRPOConfig,
    console: Console,
    rewards: Sequence[Reward],
    train_rows: Dataset,
    unseen: Dataset,
    tokenizer: Any,
) -> None:
    """What would be trained, with the first prompt as the model is given it."""
    a_step = math.ceil(config.generation_batch_size / config.num_generations)
    epoch = len(train_rows) // a_step
    steps = config.max_steps if config.max_steps > 0 else int(epoch * config.num_train_epochs)
    weights = zip(rewards, config.reward_weights or (), strict=True)
    first = train_rows[0]["prompt"]
    if not isinstance(first, str):
        first = tokenizer.apply_chat_template(first, tokenize=False, add_generation_prompt=True)
    for line in (
        f"{len(train_rows):,} prompts of {run.dataset_name}, {len(unseen):,} unseen ones for exams",
        (
            f"{steps:,} steps of {a_step} prompts, {config.num_generations} answers each, of "
            f"{config.max_completion_length:,} tokens at most"
        ),
        f"rewards: {', '.join(f'{one.__name__} × {weight:g}' for one, weight in weights)}",
        f"sampled from {run.server_url or 'a server that is started here'}",
        f"the first prompt:\n{first}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def train(
    run: Run, config: GRPOConfig, console: Console, given: ModelConfig | None = None
) -> dict[str, Any]:
    """Train and write the log, the summary and the model below ``run.out``; returns the summary,
    which is empty after a dry run.

    Raises:
        EngineError, ServerError: of the server.
        ValueError: settings, data or rewards that cannot be used; one line each.
    """
    given = given or ModelConfig()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and run.server_url is None:
        raise ConfigError(
            f"{processes} processes would start a server each: start one (multiverse serve) and "
            "pass --server_url"
        )
    name = run.model or given.model_name_or_path
    if name is None:
        raise ConfigError("which model? --model FOLDER_OR_NAME, the checkpoint that is served")
    path = model_path(name)
    if given.load_in_4bit or given.load_in_8bit:
        raise ConfigError(
            "load_in_4bit, load_in_8bit: the server would sample from other weights than those "
            "trained; leave them out"
        )
    if not config.max_completion_length:
        raise ConfigError("max_completion_length: how many tokens an answer may take; set it")
    rewards = _rewards(run, config)
    train_rows, unseen = _data(run, config)
    check_columns(rewards, train_rows)
    out = Path(run.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out {out} is a file; choose a folder")
    kept = {"revision": given.model_revision, "trust_remote_code": config.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(path, **kept)
    positions = AutoConfig.from_pretrained(path, **kept).max_position_embeddings
    room = positions - config.max_completion_length
    if room <= 0:
        raise ConfigError(
            f"max_completion_length {config.max_completion_length} leaves no prompt room in the "
            f"{positions} positions of {name}; lower it"
        )
    train_rows, over = that_fit(train_rows, tokenizer, room)
    unseen, _ = that_fit(unseen, tokenizer, room)
    if over:
        console.print(f"{over} prompts over {room} tokens are left out, {len(train_rows)} stay")
    a_step = math.ceil(config.generation_batch_size / config.num_generations)
    if len(train_rows) < a_step:
        raise ConfigError(
            f"{run.dataset_name} gives {len(train_rows)} prompts, and one step takes {a_step}: "
            "lower per_device_train_batch_size or gradient_accumulation_steps, or raise "
            "num_generations"
        )
    if run.dry_run:
        _tell(run, config, console, rewards, train_rows, unseen, tokenizer)
        return {}
    out.mkdir(parents=True, exist_ok=True)
    config.output_dir = str(out / "checkpoints")
    model = AutoModelForCausalLM.from_pretrained(
        path,
        **kept,
        dtype="auto" if given.dtype in ("auto", None) else getattr(torch, given.dtype),
        attn_implementation=given.attn_implementation or default_implementation(path),
    )
    log = StepLog(out / LOG, console, [one.__name__ for one in rewards])
    # On a GPU the weights that are trained may be finer than what kernels serve.
    dtype = "auto" if accelerator() else str(model.dtype).removeprefix("torch.")
    with serving(run, path, dtype, config.seed, console) as url:
        client = EngineClient(url, connections=64)
        options = client.options()
        rollout = MultiverseRollout(
            client,
            tokenizer,
            sync_every=run.sync_every,
            limits=Limits(**{name: options[name] for name in ("max_branches", "max_depth")}),
            weights=run.weights,
            weights_dir=run.weights_dir,
            weights_address=run.weights_address,
            seed=config.seed,
        )
        trainer = MultiverseGRPOTrainer(
            model,
            list(rewards),
            config,
            train_rows,
            rollout_func=rollout,
            processing_class=tokenizer,
            peft_config=get_peft_config(given),
            structural_filter=run.structural_filter,
            tag_gradient=run.tag_gradient,
            path_advantages=run.path_advantages,
            callbacks=[log],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            rollout.sync(trainer)
            asked = {"rewards": rewards, "tokens": config.max_completion_length}
            main = trainer.accelerator.is_main_process
            before = examine(rollout, unseen, **asked) if main else {}
            log.started = time.monotonic()
            trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
            seconds = time.monotonic() - log.started
            rollout.sync(trainer, force=True)
            after = examine(rollout, unseen, **asked) if main else {}
        finally:
            rollout.close()
    trainer.save_model(str(out / "model"))
    if not main:
        return {}
    gaps = [row["sampling/sampling_logp_difference/max"] for row in log.rows]
    handed = rollout.handover
    summary = {
        "run": asdict(run),
        "seed": config.seed,
        "steps": len(log.rows),
        "seconds": round(seconds, 1),
        "max_logprob_gap": max(gaps, default=None),
        "weights": {"way": handed.used, "seconds": [round(one, 3) for one in handed.seconds]},
        "before": before,
        "after": after,
    }
    (out / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    if log.rows:
        show(log.rows, summary, console)
    return summary


def main(args: Sequence[str] | None = None) -> None:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # of rollout_func, which is our own
    try:
        run, config, model = parse(sys.argv[1:] if args is None else args)
        disable_progress_bar()
        train(run, config, Console(), model)
    except ServerError as error:  # with the last lines of a log
        raise SystemExit(f"multiverse grpo: {error}") from error
    except (EngineError, ValueError, OSError, ImportError) as error:
        raise SystemExit(f"multiverse grpo: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    main()
