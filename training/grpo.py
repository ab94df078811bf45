"""Reinforcement learning on the tiny task: ``python -m sglang_multiverse.training.grpo --out DIR``.

Starts SGLang with the plugin (or uses ``--server_url``), samples from it, trains with TRL's GRPO,
gives the server the new weights after every step, and reports what came of it. All fields of
:class:`Run` and of ``trl.GRPOConfig`` are options; ``--config`` reads them from YAML, without it
the recipe ``recipes/grpo/tiny.yaml`` holds.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, TrlParser

from ..server import Server, ServerError, accelerator
from ..tiny import MODEL_DIR, task
from .grpo_engine import EngineError
from .grpo_trainer import MultiverseGRPOTrainer
from .rewards import latency_reward, tiny_correctness, validity_reward, where_right
from .rollout import MultiverseRollout

RECIPE = Path(__file__).parent / "recipes" / "grpo" / "tiny.yaml"
#: Half of the sentence that asks for parallel steps. No training text has it: of the tiny model's
#: answers to it, some fork and some do not.
OPEN_ENDING = "Think step by step and in parallel."
LOG = "log.jsonl"
SUMMARY = "summary.json"
#: KV of one step's completions; the tiny model's takes 2.5 KiB a token.
CPU_TOKENS = 60_000


@dataclass
class Run:
    """What is trained on what, and where it samples."""

    out: str = field(metadata={"help": "Folder for the log, the summary and the trained model."})
    model: str = field(default=str(MODEL_DIR), metadata={"help": "Checkpoint to start from."})
    server_url: str | None = field(
        default=None, metadata={"help": "A running server; without it one is started."}
    )
    server_flags: str = field(
        default="", metadata={"help": "Further flags for the server that is started."}
    )
    kinds: list[str] = field(
        default_factory=lambda: ["compare"],
        metadata={"help": f"Kinds of questions: {', '.join(task.ALL_KINDS)}."},
    )
    ending: str = field(
        default=OPEN_ENDING, metadata={"help": "The sentence that ends every question."}
    )
    latency_budget: int = field(
        default=400, metadata={"help": "Critical path, in tokens, that earns no latency reward."}
    )
    sync_every: int = field(
        default=1, metadata={"help": "Optimizer steps between weight updates of the server."}
    )
    exam: int = field(
        default=100, metadata={"help": "Unseen questions asked before and after, greedily."}
    )

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(task.ALL_KINDS))
        if unknown or not self.kinds:
            raise ValueError(
                f"kinds: unknown {', '.join(unknown) or '(none given)'}; choose from "
                f"{', '.join(task.ALL_KINDS)}"
            )


def problems(run: Run, seed: int, split: task.Split, count: int) -> list[task.Problem]:
    return list(islice(task.generate(seed, split, dict.fromkeys(run.kinds, 1.0)), count))


def messages(problem: task.Problem, run: Run) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{problem} {run.ending}"}]


class StepLog(TrainerCallback):
    """One JSON object per optimizer step, as soon as it is done, and a line for the reader."""

    def __init__(self, path: Path, console: Console):
        self.path = path
        self.console = console
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()
        path.write_text("", encoding="utf-8")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if "reward" not in logs:
            return
        seconds = round(time.monotonic() - self.started, 2)
        row = {"step": state.global_step, "seconds": seconds, **logs}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.console.print(
            f"step {state.global_step}/{state.max_steps}: reward {row['reward']:.3f}, "
            f"right {row['rewards/tiny_correctness/mean']:.2f}, "
            f"forked {row['multiverse/forked']:.2f}, "
            f"critical path {row['multiverse/critical_path']:.0f} ({seconds:.0f} s)",
            highlight=False,
        )


def examine(
    rollout: MultiverseRollout, run: Run, config: GRPOConfig, asked: Sequence[task.Problem]
) -> dict[str, float]:
    """Greedy answers of the server to ``asked``: shares of right, forked and canonical ones, and
    mean tokens and critical path."""
    params = {"temperature": 0.0, "max_new_tokens": config.max_completion_length}
    encode = partial(
        rollout.tokenizer.apply_chat_template, add_generation_prompt=True, return_dict=False
    )
    prompts = [list(encode(messages(problem, run))) for problem in asked]
    with ThreadPoolExecutor(rollout.concurrency) as pool:
        answers = list(pool.map(lambda ids: rollout.complete(ids, params), prompts))
    texts = [rollout.tokenizer.decode(answer.ids) for answer in answers]
    return {
        "questions": len(asked),
        "right": mean(task.grade(text, one) for text, one in zip(texts, asked, strict=True)),
        "forked": mean(answer.forks > 0 for answer in answers),
        "canonical": mean(not answer.issues for answer in answers),
        "tokens": mean(len(answer.ids) for answer in answers),
        "critical_path": mean(answer.critical_path for answer in answers),
    }


@contextlib.contextmanager
def serving(run: Run, dtype: str, seed: int, console: Console) -> Iterator[str]:
    """Address of the server to sample from; one that is started here is stopped at the end."""
    if run.server_url is not None:
        yield run.server_url
        return
    flags = ["--dtype", dtype, "--random-seed", str(seed)]
    if accelerator() is None:
        flags += ["--max-total-tokens", str(CPU_TOKENS)]
    with console.status("starting SGLang with --plugin multiverse …") as status:
        server = Server(
            run.model,
            flags=[*flags, *shlex.split(run.server_flags)],
            on_wait=lambda seconds: status.update(f"starting SGLang … {seconds:.0f} s"),
        )
        server.__enter__()
    try:
        yield server.url
    finally:
        server.stop()


def train(run: Run, config: GRPOConfig, console: Console) -> dict[str, Any]:
    """Train and write the log, the summary and the model below ``run.out``; returns the summary."""
    out = Path(run.out)
    out.mkdir(parents=True, exist_ok=True)
    config.output_dir = str(out / "checkpoints")
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    model = AutoModelForCausalLM.from_pretrained(
        run.model, dtype="auto", attn_implementation="sdpa"
    )
    dtype = str(model.dtype).removeprefix("torch.")
    count = config.max_steps * config.generation_batch_size // config.num_generations
    rows = [
        {"prompt": messages(problem, run), "question": str(problem)}
        for problem in problems(run, config.seed, "train", count)
    ]
    unseen = problems(run, 2026, "test", run.exam)
    quick = partial(latency_reward, budget=run.latency_budget)
    log = StepLog(out / LOG, console)
    with serving(run, dtype, config.seed, console) as url:
        rollout = MultiverseRollout(url, tokenizer, sync_every=run.sync_every, seed=config.seed)
        trainer = MultiverseGRPOTrainer(
            model,
            [tiny_correctness, where_right(tiny_correctness, quick), validity_reward],
            config,
            Dataset.from_list(rows),
            rollout_func=rollout,
            processing_class=tokenizer,
            callbacks=[log],
        )
        trainer.remove_callback(PrinterCallback)
        rollout.sync(trainer)
        before = examine(rollout, run, config, unseen) if unseen else {}
        log.started = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - log.started
        rollout.sync(trainer, force=True)
        after = examine(rollout, run, config, unseen) if unseen else {}
    trainer.save_model(str(out / "model"))
    summary = {
        "run": asdict(run),
        "seed": config.seed,
        "steps": len(log.rows),
        "seconds": round(seconds, 1),
        "max_logprob_gap": max(row["sampling/sampling_logp_difference/max"] for row in log.rows),
        "before": before,
        "after": after,
    }
    (out / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    show(log.rows, summary, console)
    return summary


def show(rows: Sequence[dict[str, Any]], summary: dict[str, Any], console: Console) -> None:
    """Print the first and last steps' means and the exams."""
    span = max(1, min(5, len(rows) // 2))
    names = {
        "reward": "reward",
        "rewards/tiny_correctness/mean": "right",
        "rewards/latency_reward/mean": "latency reward",
        "rewards/validity_reward/mean": "canonical and finished",
        "multiverse/forked": "forked",
        "multiverse/critical_path": "critical path, tokens",
        "multiverse/tokens": "generated tokens",
    }
    table = Table(title=f"{len(rows)} steps in {summary['seconds']:.0f} s, sampled")
    table.add_column("mean of")
    table.add_column(f"first {span} steps", justify="right")
    table.add_column(f"last {span} steps", justify="right")
    for key, label in names.items():
        first, last = (mean(row[key] for row in part) for part in (rows[:span], rows[-span:]))
        table.add_row(label, f"{first:.3f}", f"{last:.3f}")
    console.print(table)
    if summary["before"]:
        exam = Table(title=f"{summary['before']['questions']} unseen questions, greedy")
        exam.add_column("")
        for name in ("before", "after"):
            exam.add_column(name, justify="right")
        for key in ("right", "forked", "canonical", "tokens", "critical_path"):
            exam.add_row(key, *(f"{summary[name][key]:.3f}" for name in ("before", "after")))
        console.print(exam)
    console.print(f"largest |Δ logprob|, engine and policy: {summary['max_logprob_gap']:.1e}")


def main(args: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if args is None else args)
    if "--config" not in given:
        given = ["--config", str(RECIPE), *given]
    run, config = TrlParser((Run, GRPOConfig)).parse_args_and_config(given)
    disable_progress_bar()
    try:
        train(run, config, Console())
    except (EngineError, ServerError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
