"""The loop of self-distillation on the tiny model: serve, sample, gate, train, serve again.

    python benchmarks/self_distillation.py [--questions 300] [--out runs/self-distillation]

The model that ships answers questions of its training split, several times each and at a
temperature; of the right answers that pass the gates the one with the shortest critical path
becomes a row; it is trained on these; and both models answer other questions at the same
temperature. Every step is a command of ``multiverse`` and is kept in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MODEL_DIR, task

FLAGS = ["--dtype", "float32", "--max-total-tokens", "60000", "--served-model-name", "tiny"]


def multiverse(*words: object) -> None:
    command = [sys.executable, "-m", "sglang_multiverse.cli", *map(str, words)]
    print(" ".join(["multiverse", *command[3:]]), flush=True)
    subprocess.run(command, check=True)


def sample(out: Path, options: argparse.Namespace) -> Path:
    """Draw and export; the folder of the dataset."""
    dataset = out / "dataset"
    if dataset.exists():
        return dataset
    problems = islice(task.generate(options.seed, "train"), options.questions)
    rows = [{"question": str(one), "answer": str(one.answer)} for one in problems]
    (out / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with Server(MODEL_DIR, flags=FLAGS) as server:
        told = {
            "source": {"files": [str(out / "questions.jsonl")]},
            "endpoint": {"base_url": f"{server.url}/v1", "model": "tiny", "concurrency": 16},
            "sampling": {"temperature": options.temperature, "max_tokens": 1200},
            "sample": {"n": options.n, "choose": "shortest", "comparison": "words"},
            "card": {"name": "tiny-self-distilled", "license": "apache-2.0"},
        }
        (out / "sample.yaml").write_text(yaml.safe_dump(told))
        multiverse("curate", "sample", out / "sample.yaml", "--store", out / "store.sqlite")
    multiverse("curate", "export", dataset, "--store", out / "store.sqlite", "--no-plots")
    return dataset


def train(out: Path, dataset: Path, options: argparse.Namespace) -> Path:
    model = out / "model"
    if not model.exists():
        multiverse(
            *("sft", "--config", "tiny", "--dataset_name", dataset, "--dataset_config", "mixed"),
            *("--output_dir", model, "--num_train_epochs", options.epochs),
            *("--learning_rate", options.rate, "--eval_strategy", "no", "--eval_generations", 0),
        )
    return model


def ask(out: Path, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both models' answers to unseen questions; the report."""
    suite = {
        "name": "self-distillation",
        "servers": {
            "before": {"serve": "sums", "flags": FLAGS[:4]},
            "after": {"serve": str(model.resolve()), "flags": FLAGS[:4]},
        },
        "sampling": {"temperature": options.temperature},
        "seed": 2026,
        "epochs": 2,
        "max_tokens": 1200,
        "arms": [
            {"task": "tiny", "data": "sums", "server": name, "limit": options.asked}
            for name in ("before", "after")
        ],
    }
    (out / "suite.yaml").write_text(yaml.safe_dump(suite))
    multiverse("eval", "run", out / "suite.yaml", "--out", out / "eval")
    found: dict[str, Any] = json.loads((out / "eval" / "report.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/self-distillation"))
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--asked", type=int, default=200, help="unseen questions, each twice")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = sample(options.out, options)
    model = train(options.out, dataset, options)
    found = ask(options.out, model, options)
    drawn = json.loads((dataset / "report" / "report.json").read_text())
    kept = {"options": {k: str(v) for k, v in vars(options).items()}, "drawn": drawn["samples"]}
    kept |= {name: found[name] for name in ("arms", "differences")}
    (options.out / "results.json").write_text(json.dumps(kept, indent=1) + "\n")
    print((options.out / "eval" / "report.md").read_text())


if __name__ == "__main__":
    main()
