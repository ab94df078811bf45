"""The model that ships: it loads offline, fits, and answers problems it was never trained on."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import LAYOUT_VERSION
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.factory.exam import encode, written
from sglang_multiverse.tiny.solution import solution
from sglang_multiverse.tiny.task import generate, grade
from sglang_multiverse.training.decode import fork_join_decode


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def shipped():
    return AutoTokenizer.from_pretrained(MODEL_DIR)


def test_it_is_small_and_says_what_it_is(model, shipped):
    files = [path for path in MODEL_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 7.5e6
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in files
    }
    assert model.config.model_type == "qwen2"
    assert model.config.multiverse == {"layout": LAYOUT_VERSION}
    assert model.generation_config.eos_token_id == shipped.eos_token_id
    assert shipped.eos_token == "<|im_end|>"


def test_its_tokenizer_is_the_recipes(shipped, tokenizer):
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.chat_template == tokenizer.chat_template
    for problem in islice(generate(2, "test"), 20):
        text = solution(problem, "parallel")
        assert shipped.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_it_writes_the_worked_answers_of_unseen_problems(model, shipped, mode):
    problems = list(islice(generate(11, "test"), 40))
    wrong = written(model, shipped, problems, mode)
    assert sum(n == 0 for n in wrong) >= 36


def test_it_forks_joins_and_answers(model, shipped):
    problems = [next(generate(12, "test", {"compare": 1.0})), next(generate(12, "test"))]
    dialect = Dialect.from_tokenizer(shipped)
    prompts = [encode(problem, "parallel", shipped)[0] for problem in problems]
    answers = fork_join_decode(model, prompts, dialect, eos=shipped.eos_token_id)
    for problem, prompt, (answer, steps) in zip(problems, prompts, answers, strict=True):
        text = shipped.decode(answer, skip_special_tokens=False)
        assert grade(text, problem)
        assert text.removesuffix("<|im_end|>") == solution(problem, "parallel")
        trace = parse([*prompt, *answer], dialect, strict=True)
        assert steps < len(answer) or not trace.blocks
    assert "<Parallel>" in shipped.decode(answers[0][0], skip_special_tokens=False)
