"""Worked answers as an engine would give them, for tests of the trainer that start none."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import layout
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import task
from sglang_multiverse.tiny.solution import solution
from sglang_multiverse.training.attention import enable_multiverse_attention
from sglang_multiverse.training.collator import injected
from sglang_multiverse.training.grpo.engine import EngineClient


def some_problems() -> list[task.Problem]:
    kinds = {"compare": 1.0, "staged": 1.0, "nested": 1.0}
    return list(itertools.islice(task.generate(3, "test", kinds), 12))


def spans(flags: Any) -> list[list[int]]:
    edges = np.flatnonzero(np.diff([False, *flags, False]))
    return [[int(a), int(b)] for a, b in edges.reshape(-1, 2)]


def worked(
    problem: task.Problem, tokenizer: Any, dialect: Dialect, mode: task.Mode = "parallel"
) -> tuple[list[int], list[int], dict[str, Any]]:
    """Prompt, worked answer, and the ``meta_info`` of an engine that wrote it."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": task.prompt(problem, mode)}],
        add_generation_prompt=True,
        return_dict=False,
    )
    prompt = list(prompt)
    ids = tokenizer.encode(solution(problem, mode), add_special_tokens=False)
    ids.append(tokenizer.eos_token_id)
    whole = [*prompt, *ids]
    trace = parse(whole, dialect)
    measured = parallelism(trace, prompt_tokens=len(prompt))
    meta = {
        "multiverse_injected": spans(injected(trace, whole, dialect)[len(prompt) :]),
        "multiverse_forks": measured.blocks,
        "multiverse_paths": measured.paths,
        "multiverse_critical_path_tokens": measured.critical_path_tokens,
        "multiverse_parallelism": measured.degree,
        "finish_reason": {"type": "stop"},
    }
    return prompt, ids, meta


class WorkedAnswers(EngineClient):
    """An engine whose model always chooses the worked solution, and that scores it as an engine
    does: by its own weights, at the temperature asked for, 0.0 for what it wrote itself."""

    def __init__(self, answers: Any, dialect: Dialect):
        super().__init__("http://worked-answers")
        self.answers: dict[tuple[int, ...], tuple[list[int], dict[str, Any]]] = answers
        self.dialect = dialect
        self.asked: list[tuple[tuple[int, ...], dict[str, Any]]] = []
        self.given: list[tuple[str, Any]] = []
        self.off = 0.0
        self.architecture = "Qwen2ForCausalLM"
        self.shares: int | None = None

    @torch.no_grad()
    def generate(self, input_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        self.asked.append((tuple(input_ids), sampling_params))
        ids, meta = self.answers[tuple(input_ids)]
        version, model = self.given[-1]
        laid = layout([*input_ids, *ids], self.dialect)
        logits = model(
            input_ids=torch.tensor([[*input_ids, *ids]]),
            position_ids=torch.from_numpy(laid.position)[None],
            multiverse_order=torch.from_numpy(laid.order)[None].int(),
            use_cache=False,
        ).logits[0, len(input_ids) - 1 : -1]
        scores = (logits / sampling_params["temperature"]).log_softmax(-1)
        logprobs = scores[torch.arange(len(ids)), torch.tensor(ids)] - self.off
        for start, end in meta["multiverse_injected"]:
            logprobs[start:end] = 0.0
        return ids, logprobs.tolist(), {**meta, "weight_version": version}

    def architectures(self) -> list[str]:
        return [self.architecture]

    def share_every(self) -> int | None:
        return self.shares

    def model_path(self) -> str:
        return "elsewhere"

    def update_weights(self, folder: Path, version: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.given.append((version, enable_multiverse_attention(model)))


def recorded(problems: list[task.Problem], tokenizer: Any, dialect: Dialect) -> WorkedAnswers:
    made = [worked(problem, tokenizer, dialect) for problem in problems]
    return WorkedAnswers({tuple(prompt): (ids, meta) for prompt, ids, meta in made}, dialect)


def config(tmp_path: Path, **changes: Any) -> GRPOConfig:
    return GRPOConfig(
        **{
            "output_dir": str(tmp_path),
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 640,
            "temperature": 0.9,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": False,
            "use_cpu": True,
            **changes,
        }
    )
