"""GRPO on the machines, through the command line as with anybody's data and reward.

    python benchmarks/grpo_machines.py [--seeds 42 43 44] [--out runs/grpo-machines] [--steps 20]

Writes questions about two machines to a file, and for each seed runs ``multiverse grpo`` on it from
the model of ``multiverse demo``. Questions end in half of the sentence that it knows, so that it
forks or not as chance has it. The reward is that of ``training/recipes/grpo/tiny.yaml``: right
answers, canonical form, and of right answers the shorter critical paths; nothing counts forks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from sglang_multiverse.tiny import MACHINES_DIR
from sglang_multiverse.tiny.machines import answered, questions
from sglang_multiverse.training.grpo.rewards.functions import texts_of

#: Critical path, in tokens, that earns no latency reward: that of a long sequential answer.
BUDGET = 450
OPTIONS = """
    --prompt_column question --reward latency=2.0 --reward validity=0.2 --scale_rewards batch
    --per_device_train_batch_size 32 --gradient_accumulation_steps 1 --num_generations 4
    --max_completion_length 600 --temperature 1.0 --learning_rate 3e-4 --structural_filter none
    --lr_scheduler_type constant --gradient_checkpointing false --exam 60
"""


def right(completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
    """1.0 where the last ``Answer:`` is the one wanted."""
    texts = texts_of(completions)
    return [float(answered(text) == one) for text, one in zip(texts, answer, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--out", type=Path, default=Path("runs/grpo-machines"))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "questions.jsonl"
    rows = [
        json.dumps({"question": str(one), "answer": one.answer})
        for one in islice(questions(7, "test", counts=(2,)), 600)
    ]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    for seed in options.seeds:
        command = [sys.executable, "-m", "sglang_multiverse.cli", "grpo", "--config", "math"]
        command += ["--model", str(MACHINES_DIR)]
        command += ["--dataset_name", str(file), "--ending", "Think step by step and in parallel."]
        command += ["--reward", f"{__file__}:right", *OPTIONS.split()]
        command += ["--latency_budget", str(BUDGET), "--seed", str(seed)]
        command += ["--max_steps", str(options.steps), "--out", str(options.out / str(seed))]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
