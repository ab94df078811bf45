"""Accuracy of the tiny model through the engine, on questions it has not seen.

    python benchmarks/accuracy.py [--questions 200] [--workers 16]

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
from typing import Any

from transformers import AutoTokenizer

from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MODEL_DIR, task


def ask(server: Server, tokenizer: Any, problem: task.Problem, mode: task.Mode) -> dict[str, Any]:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": task.prompt(problem, mode)}],
        tokenize=False,
        add_generation_prompt=True,
    )
    params = {"temperature": 0, "max_new_tokens": 1200}
    answer = server.request("/generate", {"text": prompt, "sampling_params": params})
    meta = answer["meta_info"]
    return {
        "right": task.grade(answer["text"], problem),
        "tokens": meta["completion_tokens"],
        "critical_path": meta["multiverse_critical_path_tokens"],
        "forks": meta["multiverse_forks"],
        "steps": meta["multiverse_forward_steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    problems = list(itertools.islice(task.generate(args.seed, "test"), args.questions))
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    rows = []
    with Server(MODEL_DIR, flags=["--dtype", "float32"]) as server:
        for mode in ("parallel", "sequential"):
            begun = time.perf_counter()
            with ThreadPoolExecutor(args.workers) as pool:
                answers = list(pool.map(lambda p, m=mode: ask(server, tokenizer, p, m), problems))
            seconds = time.perf_counter() - begun
            tokens = sum(answer["tokens"] for answer in answers)
            rows.append(
                {
                    "mode": mode,
                    "questions": len(answers),
                    "right": sum(answer["right"] for answer in answers),
                    "forked": sum(answer["forks"] > 0 for answer in answers),
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
