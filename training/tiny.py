"""Train the tiny model: ``python -m sglang_multiverse.training.tiny --out DIR``.

Everything is made here from seeds: tokenizer, weights, problems. A run that was cut off goes on
from its last checkpoint when started again with the same arguments. ``DIR/model`` is the result.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ..tiny.task import Mode, Problem, generate
from .tiny_eval import messages, written
from .tiny_model import tiny_model, tiny_tokenizer
from .trainer import MultiverseSFTConfig, MultiverseSFTTrainer

#: Short problems come first, so that copying and the digit tables are learnt on cheap steps.
EASY = {"single": 0.3, "compare": 0.5, "sum": 0.2}
EASY_SHARE = 0.2
#: Share of rows that ask for parallel steps; the rest ask for the same work in one sequence.
PARALLEL_SHARE = 0.7
#: Batches whose rows are sorted by length together.
POOL = 24


def rows(seed: int, count: int, batch_size: int) -> list[dict[str, Any]]:
    """``count`` rows of prompt and completion in training order, batches of similar lengths."""
    rng = random.Random(seed)
    easy = int(count * EASY_SHARE)

    def phase(problems: Iterator[Problem], size: int) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for problem in islice(problems, size):
            mode: Mode = "parallel" if rng.random() < PARALLEL_SHARE else "sequential"
            made.append(messages(problem, mode))
        return made

    ordered = []
    for part in (
        phase(generate(seed, "train", EASY), easy),
        phase(generate(seed + 1, "train"), count - easy),
    ):
        for at in range(0, len(part), batch_size * POOL):
            pool = part[at : at + batch_size * POOL]
            pool.sort(key=lambda row: len(row["completion"][0]["content"]))
            batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
            rng.shuffle(batches)
            ordered += [row for batch in batches for row in batch]
    return ordered


class Exam(TrainerCallback):
    """Every ``every`` steps, the share of unseen problems whose worked answer is word-perfect."""

    def __init__(self, tokenizer: Any, every: int, size: int, stop_after: int | None):
        self.tokenizer = tokenizer
        self.every = every
        self.stop_after = stop_after
        self.problems = list(islice(generate(0, "test"), size))
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.stop_after:
            control.should_training_stop = True
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            model = kwargs["model"]
            share = {
                mode: sum(n == 0 for n in written(model, self.tokenizer, self.problems, mode))
                / len(self.problems)
                for mode in ("parallel", "sequential")
            }
            minutes = (time.monotonic() - self.started) / 60
            print(
                f"step {state.global_step}: word-perfect on {len(self.problems)} unseen problems: "
                f"parallel {share['parallel']:.1%}, sequential {share['sequential']:.1%} "
                f"({minutes:.1f} min)",
                flush=True,
            )


def train(
    out: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    every: int,
    bf16: bool,
    exam_size: int = 64,
    stop_after: int | None = None,
) -> Path:
    """Train from scratch or on from the last checkpoint in ``out``; returns the model's folder.

    Args:
        every: steps between checkpoints, each with an exam on ``exam_size`` unseen problems.
        stop_after: stop at this step of ``steps``, as if cut off there.
    """
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, seed)
    checkpoints = out / "checkpoints"
    args = MultiverseSFTConfig(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        warmup_steps=min(100, steps // 10),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        max_length=1024,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=min(25, every),
        save_steps=every,
        save_total_limit=2,
        report_to="none",
        seed=seed,
        loss_on_injected=False,
    )
    trainer = MultiverseSFTTrainer(
        model,
        args,
        train_dataset=Dataset.from_list(rows(seed, steps * batch_size, batch_size)),
        processing_class=tokenizer,
        callbacks=[Exam(tokenizer, every, exam_size, stop_after)],
    )
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    target = out / "model"
    trainer.model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and model")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between exams")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="compute in bfloat16 over float32 weights: faster on a CPU that has AVX512-BF16",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    target = train(
        options.out,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        every=options.every,
        bf16=options.bf16,
    )
    print(f"the trained model is in {target}")


if __name__ == "__main__":
    main()
