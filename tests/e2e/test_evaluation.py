"""The evaluation on the real server: the shipped suite, and what it says against what is said."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="the eval extra is not installed")

from sglang_multiverse.evaluation import report, running
from sglang_multiverse.evaluation.runs import read_arms
from sglang_multiverse.evaluation.suite import ArmsOf, ServerOf, Suite, load
from sglang_multiverse.tiny import task

from .client import Client

pytestmark = pytest.mark.weights("tiny")

SUITE = Path(__file__).parents[2] / "examples" / "evaluation" / "tiny.yaml"
QUESTIONS = 12


def of(client: Client, *arms: ArmsOf) -> Suite:
    """The shipped suite, asked of the server in hand and of the model it serves."""
    servers = {"tiny": ServerOf(base_url=client.server.url)}
    return load(SUITE).model_copy(update={"servers": servers, "arms": arms})


def directly(client: Client, tokenizer: Any, mode: Any) -> list[bool]:
    """As ``benchmarks/accuracy.py`` asks and grades."""
    right = []
    for problem in islice(task.generate(2026, "test"), QUESTIONS):
        message = [{"role": "user", "content": task.prompt(problem, mode)}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        params = {"temperature": 0, "max_new_tokens": 1200}
        answer = client.server.request("/generate", {"text": text, "sampling_params": params})
        right.append(task.grade(answer["text"], problem))
    return right


def test_the_suite_of_the_tiny_model(overlap: Client, tokenizer: Any, tmp_path: Path) -> None:
    arms = ArmsOf(
        task="tiny", data="sums", modes=("parallel", "sequential"), limit=QUESTIONS, max_tokens=1200
    )
    suite = of(overlap, arms)
    assert running.run(suite, tmp_path / "logs", lambda line: None)
    arms_read = read_arms(tmp_path / "logs")
    assert [arm.name for arm in arms_read] == ["tiny parallel", "tiny sequential"]
    for arm in arms_read:
        assert len(arm.runs) == 2 * QUESTIONS
        for run in arm.runs:
            assert run.outcome == "answered"
            assert run.critical_path and run.tokens and run.forward_steps and run.latency
        wanted = directly(overlap, tokenizer, arm.mode)
        for epoch in (1, 2):
            found = {run.question: run.correct for run in arm.runs if run.epoch == epoch}
            asked = [found[f"sums/2026/{number}"] for number in range(QUESTIONS)]
            assert asked == wanted, "greedy, and graded by the task itself"
    written = report.write(tmp_path / "logs", tmp_path)
    parallel, sequential = written["arms"]
    assert parallel["parallelism"]["value"] > 1.3
    assert sequential["parallelism"]["value"] == 1.0
    assert parallel["forked"]["value"] > 0.8
    head = written["head"][0]
    assert head["server"]["version"] and head["server"]["model_path"]
    assert head["sampling"]["temperature"] == 0


def test_an_answer_ends_within_its_budget(overlap: Client, tmp_path: Path) -> None:
    arms = ArmsOf(
        task="tiny", data="sums", modes=("parallel", "off"), budgets=(40,), limit=4, max_tokens=600
    )
    assert running.run(of(overlap, arms), tmp_path / "logs", lambda line: None)
    for arm in read_arms(tmp_path / "logs"):
        assert {run.outcome for run in arm.runs} == {"cut"}
        assert all(run.critical_path <= 40 + 1 for run in arm.runs), arm.name
