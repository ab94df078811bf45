"""What ``multiverse sft`` trains is what the engine serves: weights as saved, and merged."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.tiny import task
from sglang_multiverse.training import enable_multiverse_attention, sft
from sglang_multiverse.training.lora import merge_adapter

from .client import Client
from .test_answers import ask_with_logprobs, differences
from .test_fidelity import TOLERANCE

pytestmark = pytest.mark.weights("tiny")

_SHORT = [
    "--tiny_rows",
    "40",
    "--max_steps",
    "5",
    "--eval_strategy",
    "no",
    "--disable_tqdm",
    "true",
]
_SHORT += ["--eval_generations", "0"]
_LORA = ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "--learning_rate", "1e-3"]


@pytest.fixture(scope="module", params=["full", pytest.param("lora", marks=pytest.mark.nightly)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to serve: trained in full, or an adapter merged."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    lora = request.param == "lora"
    arguments = ["--config", "tiny", "--output_dir", str(folder), *_SHORT, *(_LORA if lora else [])]
    sft.run(*sft.parse(arguments))
    if not lora:
        return folder
    merged = folder.with_name("merged")
    merge_adapter(folder, merged)
    return merged


def test_what_was_trained_is_what_is_served(
    overlap: Client, tokenizer: Any, dialect: Dialect, trained: Path, trainer_model: Any
) -> None:
    assert json.loads((trained / "config.json").read_text())["multiverse"] == {"layout": 1}
    overlap.use(trained)
    model = AutoModelForCausalLM.from_pretrained(
        trained, dtype=torch.float32, attn_implementation="sdpa"
    )
    enable_multiverse_attention(model.eval())
    problems = list(itertools.islice(task.generate(78, "test", {"compare": 1.0}), 6))
    asked = ask_with_logprobs(overlap, tokenizer, problems)
    gaps, forks = differences(model, dialect, asked)
    worst = float(gaps.abs().max())
    print(f"\n{trained.name}: {forks} forks, {len(gaps)} tokens, max |Δ logprob| {worst:.2e}")
    assert forks >= 3
    assert worst <= TOLERANCE
    before, _ = differences(trainer_model, dialect, asked)
    assert before.abs().max() > 100 * TOLERANCE, "these are not the weights it started from"
