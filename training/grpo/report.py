"""What a run tells: a log with one object per step, the exam, and tables of both."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback

from .completion import EXTRAS
from .prompts import encode
from .rewards.checked import Reward
from .rollout import MultiverseRollout

LOG = "log.jsonl"
SUMMARY = "summary.json"

_SHOWN = {
    "multiverse/forked": "forked",
    "multiverse/canonical": "in canonical form",
    "multiverse/filtered": "left out",
    "multiverse/critical_path": "critical path, tokens",
    "multiverse/tokens": "generated tokens",
}


class StepLog(TrainerCallback):
    """One JSON object per optimizer step, as soon as it is done, and a line for the reader."""

    def __init__(self, path: Path, console: Console, rewards: Sequence[str]):
        self.path = path
        self.console = console
        self.rewards = rewards
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()
        path.write_text("", encoding="utf-8")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if "reward" not in logs or not state.is_world_process_zero:
            return
        seconds = round(time.monotonic() - self.started, 2)
        row = {"step": state.global_step, "seconds": seconds, **logs}
        # A mean over no answers is NaN, which JSON has no word for.
        row = {key: None if _nan(value) else value for key, value in row.items()}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        parts = [f"reward {_number(row['reward'])}"]
        parts += [f"{name} {_number(row.get(_mean(name)), 2)}" for name in self.rewards]
        self.console.print(
            f"step {state.global_step}/{state.max_steps}: {', '.join(parts)}, "
            f"forked {row['multiverse/forked']:.2f}, "
            f"critical path {row['multiverse/critical_path']:.0f} ({seconds:.0f} s)",
            highlight=False,
            markup=False,
        )


def examine(
    rollout: MultiverseRollout, rows: Dataset, rewards: Sequence[Reward], *, tokens: int
) -> dict[str, float]:
    """Greedy answers of the server to ``rows``: mean rewards, shares of forked and canonical
    answers, and mean tokens and critical path. Empty without rows."""
    if not len(rows):
        return {}
    params = {"temperature": 0.0, "max_new_tokens": tokens}
    prompts = list(rows["prompt"])
    encoded = [encode(prompt, rollout.tokenizer) for prompt in prompts]
    with ThreadPoolExecutor(rollout.concurrency) as pool:
        answers = list(pool.map(lambda ids: rollout.complete(ids, params), encoded))
    texts = [rollout.tokenizer.decode(one.ids, skip_special_tokens=True) for one in answers]
    given: dict[str, Any] = {name: list(rows[name]) for name in rows.column_names}
    given.pop("prompt")
    given.update({name: [getattr(one, name) for one in answers] for name in EXTRAS})
    given.update(
        prompts=prompts,
        completions=[
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for text, prompt in zip(texts, prompts, strict=True)
        ],
        completion_ids=[one.ids for one in answers],
        log_extra=lambda *_: None,
        log_metric=lambda *_: None,
    )
    found = {one.__name__: _mean_of(one(**given)) for one in rewards}
    return {
        "questions": len(answers),
        **found,
        "forked": fmean(one.forks > 0 for one in answers),
        "canonical": fmean(not one.issues for one in answers),
        "tokens": fmean(len(one.ids) for one in answers),
        "critical_path": fmean(one.critical_path for one in answers),
    }


def show(rows: Sequence[dict[str, Any]], summary: dict[str, Any], console: Console) -> None:
    """Print the first and last steps' means and the exams."""
    span = max(1, min(5, len(rows) // 2))
    rewards = [key for key in rows[0] if key.startswith("rewards/") and key.endswith("/mean")]
    names = {"reward": "reward", **{key: key.split("/")[1] for key in rewards}, **_SHOWN}
    table = Table(title=f"{len(rows)} steps in {summary['seconds']:.0f} s, sampled")
    table.add_column("mean of")
    table.add_column(f"first {span} steps", justify="right")
    table.add_column(f"last {span} steps", justify="right")
    for key, label in names.items():
        halves = (_mean_of(row.get(key) for row in part) for part in (rows[:span], rows[-span:]))
        table.add_row(label, *map(_number, halves))
    console.print(table)
    if summary["before"]:
        exam = Table(title=f"{summary['before']['questions']} unseen questions, greedy")
        exam.add_column("")
        for name in ("before", "after"):
            exam.add_column(name, justify="right")
        for key in summary["before"]:
            if key != "questions":
                exam.add_row(key, *(_number(summary[name][key]) for name in ("before", "after")))
        console.print(exam)
    console.print(f"largest |Δ logprob|, engine and policy: {summary['max_logprob_gap']:.1e}")


def _mean(name: str) -> str:
    return f"rewards/{name}/mean"


def _mean_of(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
