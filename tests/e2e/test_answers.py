"""The tiny model's own answers: it forks because it learned to."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import layout
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import MODEL_DIR, task

from .client import Client
from .test_fidelity import TOLERANCE, logprobs

pytestmark = pytest.mark.weights("tiny")


@pytest.fixture(scope="session")
def problems() -> list[task.Problem]:
    return list(itertools.islice(task.generate(77, "test"), 24))


def prompt_ids(tokenizer: Any, problem: task.Problem, mode: task.Mode = "parallel") -> list[int]:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": task.prompt(problem, mode)}],
        add_generation_prompt=True,
        return_dict=False,
    )
    return list(ids)


def ask_with_logprobs(
    client: Client, tokenizer: Any, problems: list[task.Problem], **body: Any
) -> list[tuple[list[int], Any]]:
    """Prompt and answer of every problem: the first alone, the others at once."""
    prompts = [prompt_ids(tokenizer, problem) for problem in problems]
    calls = [(lambda ids=ids: client.generate(ids, return_logprob=True, **body)) for ids in prompts]
    answers = [calls[0](), *client.at_once(calls[1:])]
    return list(zip(prompts, answers, strict=True))


def differences(
    model: Any, dialect: Dialect, asked: list[tuple[list[int], Any]]
) -> tuple[torch.Tensor, int]:
    """Engine minus trainer for every sampled token, and how many forks there were."""
    found, forks = [], 0
    for prompt, answer in asked:
        ids, meta = [*prompt, *answer["output_ids"]], answer["meta_info"]
        if any(not block.joined for block in parse(ids, dialect).blocks):
            continue  # cut at the length limit inside a block
        forks += meta["multiverse_forks"]
        expected = logprobs(model, ids, layout(ids, dialect))
        injected = {i for a, b in meta["multiverse_injected"] for i in range(a, b)}
        for i, (value, token, _) in enumerate(meta["output_token_logprobs"]):
            at = len(prompt) + i
            assert token == ids[at]
            if i in injected:
                assert value == 0.0
            else:
                found.append(value - float(expected[at - 1, token]))
    return torch.tensor(found, dtype=torch.float64), forks


def test_its_own_answers_have_the_trainers_logprobs(
    server: Client,
    tokenizer: Any,
    dialect: Dialect,
    trainer_model: Any,
    problems: list[task.Problem],
) -> None:
    """Every sampled token's logprob is the trainer's, alone and among twenty."""
    asked = ask_with_logprobs(server, tokenizer, problems[:21])
    gaps, forks = differences(trainer_model, dialect, asked)
    worst = float(gaps.abs().max())
    print(f"\nown answers: {forks} forks, {len(gaps)} tokens, max |Δ logprob| {worst:.2e}")
    assert forks >= 15
    assert worst <= TOLERANCE


def test_sampled_answers_differ_by_rounding_alone(
    overlap: Client,
    tokenizer: Any,
    dialect: Dialect,
    trainer_model: Any,
    problems: list[task.Problem],
) -> None:
    """At temperature 1 unlikely tokens come up, where float32 itself is off by more than 1e-5: the
    engine is as near to float64 as the trainer is."""
    asked = ask_with_logprobs(overlap, tokenizer, problems[:12], temperature=1.0)
    exact = copy.deepcopy(trainer_model).double()
    engine, forks = differences(exact, dialect, asked)
    trainer = engine - differences(trainer_model, dialect, asked)[0]
    print(
        f"\nsampled answers: {forks} forks, {len(engine)} tokens, to float64: engine "
        f"{float(engine.abs().max()):.2e}, trainer {float(trainer.abs().max()):.2e}"
    )
    assert forks >= 8
    assert engine.abs().max() <= 3 * trainer.abs().max()


def test_answers_are_right_and_parallel(
    overlap: Client, tokenizer: Any, problems: list[task.Problem]
) -> None:
    """A sample; benchmarks/accuracy.py measures 200."""
    answers = overlap.at_once(
        (lambda p=p: overlap.generate(prompt_ids(tokenizer, p))) for p in problems
    )
    right = sum(task.grade(a["text"], p) for a, p in zip(answers, problems, strict=True))
    forked = [a["meta_info"] for a in answers if a["meta_info"]["multiverse_forks"]]
    print(f"\nright: {right} of {len(problems)}, forked: {len(forked)}")
    assert right >= 0.9 * len(problems)
    assert len(forked) >= len(problems) / 2
    for meta in forked:
        assert meta["multiverse_forward_steps"] < meta["completion_tokens"]


def test_chat_completions(overlap: Client, problems: list[task.Problem]) -> None:
    problem = next(p for p in problems if len(p.definitions) > 1)
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": task.prompt(problem, "parallel")}],
        "temperature": 0,
        "max_tokens": 1200,
        "logprobs": True,
    }
    whole = overlap.server.request("/v1/chat/completions", body)
    (choice,) = whole["choices"]
    text = choice["message"]["content"]
    assert text.startswith("<Think>\n")
    assert text.count("<Path>") >= 2
    assert choice["finish_reason"] == "stop"
    assert whole["usage"]["completion_tokens"] >= len(choice["logprobs"]["content"]) - 1
    streamed, events = "", 0
    for event in overlap.server.stream("/v1/chat/completions", {**body, "stream": True}):
        for part in event["choices"]:
            streamed += part["delta"].get("content") or ""
        events += 1
    assert streamed == text
    assert events > 20


def test_several_answers_to_one_prompt(
    overlap: Client, tokenizer: Any, problems: list[task.Problem]
) -> None:
    """``n`` samples of one prompt each have their own tree."""
    answers = overlap.generate(
        text=tokenizer.decode(prompt_ids(tokenizer, problems[0])), n=3, temperature=0.8
    )
    assert len(answers) == 3
    assert all("multiverse_forks" in answer["meta_info"] for answer in answers)


def test_offline_engine(tmp_path: Path) -> None:
    """``sgl.Engine(plugin="multiverse")``, in a process of its own."""
    code = f"""
import json, sglang as sgl
if __name__ == "__main__":
    engine = sgl.Engine(
        plugin="multiverse", multiverse_max_branches=8, model_path={str(MODEL_DIR)!r},
        device="cpu", attention_backend="torch_native", max_total_tokens=5000, dtype="float32",
        skip_server_warmup=True)
    out = engine.generate({json.dumps(_PROMPT)}, {{"temperature": 0, "max_new_tokens": 900}})
    print("RESULT " + json.dumps(out["meta_info"]))
    engine.shutdown()
"""
    script = tmp_path / "offline.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "SGLANG_PLATFORM": "torch_cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    assert line is not None, done.stdout[-2000:] + done.stderr[-4000:]
    assert json.loads(line.removeprefix("RESULT "))["multiverse_forks"] >= 1


_PROMPT = (
    "<|im_start|>user\n"
    + task.prompt(
        "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?", "parallel"
    )
    + "<|im_end|>\n<|im_start|>assistant\n"
)


def test_demo_as_json() -> None:
    """The README's main job."""
    done = subprocess.run(
        [sys.executable, "-m", "sglang_multiverse.cli", "demo", "--json"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["correct"] is True
    assert report["same_text"] is True
    assert report["forks"] >= 1
    assert report["step_by_step_correct"] is True
    assert report["net_parallelism"] >= 1.5
    assert report["sequential_forward_steps"] >= 2.5 * report["forward_steps"]
    assert report["step_by_step_forward_steps"] >= 2.5 * report["forward_steps"]


torch.set_num_threads(1)
