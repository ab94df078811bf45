"""Train the tiny model: ``python -m sglang_multiverse.tiny.factory --out DIR``.

Everything is made here from seeds: tokenizer, weights, problems. A run that was cut off goes on
from its last checkpoint when started again with the same arguments. ``DIR/model`` is the result.
"""

from __future__ import annotations

import argparse
import random
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ...training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer
from ..dataset import PARALLEL_SHARE, messages
from ..task import Mode, generate
from .exam import written
from .model import tiny_model, tiny_tokenizer
from .muon import MuonAdamW

#: Short problems come first, so that copying and the digit tables are learnt on cheap steps.
EASY = {"single": 0.3, "compare": 0.5, "sum": 0.2}
EASY_STEPS = 300
#: Then the kinds the model is made for, as in an exam.
MIXTURE = {"single": 0.1, "compare": 0.62, "sum": 0.28}
#: Share of the steps over which the learning rate falls to nothing.
DECAY_SHARE = 0.4
#: The same where the clock ends the run.
CLOCK_DECAY_SHARE = 0.8
#: Batches whose rows are sorted by length together.
POOL = 24


def rows(
    seed: int, steps: int, batch_size: int, easy_steps: int = EASY_STEPS
) -> list[dict[str, Any]]:
    """Rows of prompt and completion for ``steps`` batches, in training order.

    Rows of one batch are of similar length. More steps only add rows after those of fewer, so a
    run may be prolonged or shortened where it stopped.
    """
    easy = min(easy_steps, steps)
    ordered: list[dict[str, Any]] = []
    for problems, batches in (
        (generate(seed, "train", EASY), easy),
        (generate(seed + 1, "train", MIXTURE), steps - easy),
    ):
        for start in range(0, batches, POOL):
            rng = random.Random(f"{seed}-{len(ordered)}")
            pool = []
            for problem in islice(problems, POOL * batch_size):
                mode: Mode = "parallel" if rng.random() < PARALLEL_SHARE else "sequential"
                pool.append(messages(problem, mode))
            pool.sort(key=lambda row: len(row["completion"][0]["content"]))
            turns = list(range(POOL))
            rng.shuffle(turns)
            for turn in turns[: batches - start]:
                ordered += pool[turn * batch_size : (turn + 1) * batch_size]
    return ordered


class Clock(TrainerCallback):
    """Ends the training after ``minutes``, the learning rate falling over the last of them.

    For machines whose speed is not known beforehand: the schedule is kept by time, not by steps.
    """

    def __init__(self, minutes: float, optimizer: Optimizer):
        self.minutes = minutes
        self.started: float | None = None
        self.schedule = LambdaLR(optimizer, lambda _step: self.share())

    def share(self) -> float:
        """What share of the learning rate holds now."""
        if self.started is None:
            return 1.0
        left = 1 - (time.monotonic() - self.started) / 60 / self.minutes
        return max(0.0, min(1.0, left / CLOCK_DECAY_SHARE))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.share() <= 0:
            control.should_training_stop = True


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


def start_from(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: str) -> None:
    """Take over the weights in ``folder``; embeddings follow their token's text, not its id."""
    theirs = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder).get_vocab()
    table = model.get_input_embeddings().weight.detach().clone()
    for text, row in tokenizer.get_vocab().items():
        if text in ids:
            table[row] = theirs.get_input_embeddings().weight[ids[text]].detach()
    model.load_state_dict(theirs.state_dict())
    model.get_input_embeddings().weight.data.copy_(table)


def train(
    out: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    muon_learning_rate: float,
    seed: int,
    every: int,
    bf16: bool,
    easy_steps: int = EASY_STEPS,
    init: str | None = None,
    minutes: float | None = None,
    exam_size: int = 64,
    stop_after: int | None = None,
) -> Path:
    """Train from scratch or on from the last checkpoint in ``out``; returns the model's folder.

    Args:
        easy_steps: steps on short problems alone, before the full mixture.
        init: folder of a model whose weights to start from instead of fresh ones.
        minutes: end after so many minutes from here, if ``steps`` are not done by then.
        every: steps between checkpoints, each with an exam on ``exam_size`` unseen problems.
        stop_after: stop at this step of ``steps``, as if cut off there.
    """
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, seed)
    if init is not None:
        start_from(model, tokenizer, init)
    checkpoints = out / "checkpoints"
    args = MultiverseSFTConfig(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": int(steps * DECAY_SHARE)},
        warmup_steps=min(100, steps // 10),
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
    optimizer = MuonAdamW(model, lr=learning_rate, muon_lr=muon_learning_rate)
    callbacks: list[TrainerCallback] = [Exam(tokenizer, every, exam_size, stop_after)]
    schedule = None
    if minutes is not None:
        callbacks.append(clock := Clock(minutes, optimizer))
        schedule = clock.schedule
    trainer = MultiverseSFTTrainer(
        model,
        args,
        train_dataset=Dataset.from_list(rows(seed, steps, batch_size, easy_steps)),
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
        callbacks=callbacks,
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
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of AdamW")
    parser.add_argument("--muon-learning-rate", type=float, default=2e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--easy-steps", type=int, default=EASY_STEPS)
    parser.add_argument("--init", help="start from the weights of the model in this folder")
    parser.add_argument("--minutes", type=float, help="end by the clock, whatever the step")
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
        muon_learning_rate=options.muon_learning_rate,
        seed=options.seed,
        every=options.every,
        bf16=options.bf16,
        easy_steps=options.easy_steps,
        init=options.init,
        minutes=options.minutes,
    )
    print(f"the trained model is in {target}")


if __name__ == "__main__":
    main()
