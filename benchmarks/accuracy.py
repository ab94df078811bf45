"""Accuracy of the tiny models through the engine, on questions they have not seen.

    python benchmarks/accuracy.py [machines | sums] [--questions 200] [--workers 16]

Starts the server with the plugin, asks every question in parallel mode and in sequential mode,
greedily, and prints a table: answers right, degree of parallelism, forward steps and seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MACHINES_DIR, MODEL_DIR, machines, task


def exams(model: str, seed: int, count: int) -> list[tuple[str, task.Mode, list[Any]]]:
    """What is asked of a model: a name, the mode, and questions of no run or sum it has seen."""
    if model == "sums":
        problems: list[Any] = list(itertools.islice(task.generate(seed, "test"), count))
        return [("parallel", "parallel", problems), ("sequential", "sequential", problems)]
    plain = list(itertools.islice(machines.questions(seed, "test"), count))
    pairs = machines.questions(seed, "test", counts=(2, 4), nested=True)
    return [
        ("parallel", "parallel", plain),
        ("sequential", "sequential", plain),
        ("parallel, nested", "parallel", list(itertools.islice(pairs, count))),
    ]


def ask(server: Server, tokenizer: Any, asked: Any, problem: Any, mode: str) -> dict[str, Any]:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked.prompt(problem, mode)}],
        tokenize=False,
        add_generation_prompt=True,
    )
    params = {"temperature": 0, "max_new_tokens": 2400 if asked is machines else 1200}
    answer = server.request("/generate", {"text": prompt, "sampling_params": params})
    meta = answer["meta_info"]
    return {
        "right": asked.grade(answer["text"], problem),
        "tokens": meta["completion_tokens"],
        "critical_path": meta["multiverse_critical_path_tokens"],
        "forks": meta["multiverse_forks"],
        "depth": meta["multiverse_depth"],
        "steps": meta["multiverse_forward_steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", choices=["machines", "sums"], default="machines")
    parser.add_argument("--folder", type=Path, help="other weights for the same questions")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    shipped = {"machines": (machines, MACHINES_DIR), "sums": (task, MODEL_DIR)}
    asked, folder = shipped[args.model]
    folder = args.folder or folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    flags = ["--dtype", "float32", "--max-total-tokens", "60000"]
    with Server(folder, flags=flags) as server:
        for name, mode, problems in exams(args.model, args.seed, args.questions):
            begun = time.perf_counter()
            with ThreadPoolExecutor(args.workers) as pool:
                one = partial(ask, server, tokenizer, asked, mode=mode)
                answers = list(pool.map(one, problems))
            seconds = time.perf_counter() - begun
            tokens = sum(answer["tokens"] for answer in answers)
            rows.append(
                {
                    "mode": name,
                    "questions": len(answers),
                    "right": sum(answer["right"] for answer in answers),
                    "forked": sum(answer["forks"] > 0 for answer in answers),
                    "depth": max(answer["depth"] for answer in answers),
                    "parallelism": tokens / sum(a["critical_path"] for a in answers),
                    "mean_tokens": statistics.mean(a["tokens"] for a in answers),
                    "mean_forward_steps": statistics.mean(a["steps"] for a in answers),
                    "seconds": seconds,
                }
            )
    if args.json:
        print(json.dumps(rows))
        return
    print("| mode | right | forked | parallelism | tokens | forward steps | seconds |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        share = row["right"] / row["questions"]
        print(
            f"| {row['mode']} | {row['right']} of {row['questions']} ({share:.1%}) | "
            f"{row['forked']} | {row['parallelism']:.2f} | {row['mean_tokens']:.0f} | "
            f"{row['mean_forward_steps']:.0f} | {row['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
