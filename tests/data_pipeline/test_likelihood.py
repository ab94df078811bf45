"""The likelihood test sees exactly what it says it sees, and finds a path that leans."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_multiverse.data_pipeline.gates.meaning.likelihood import (
    ModelScore,
    check_likelihood,
    sibling_gains,
)
from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import Layout
from sglang_multiverse.lexer import encode
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.solution import solution
from sglang_multiverse.tiny.task import generate
from tests.data_pipeline.test_gates import whole


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def dialect(tokenizer):
    return Dialect.from_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def causal(model, ids: list[int]) -> np.ndarray:
    """NLL of tokens 1… under a plain causal forward of the model, without any layout."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    return nll.numpy()


def test_both_sides_are_plain_causal_likelihoods(model, tokenizer, dialect) -> None:
    """With two paths, what path 2 sees is a chain either way: the trunk, or the whole text."""
    problem = next(p for p in generate(5, "test") if solution(p, "parallel").count("<Path>") == 2)
    text = solution(problem, "parallel")
    one, two = sibling_gains(text, tokenizer, dialect, ModelScore(model))
    head, _, rest = text.partition("<Path>")
    first, _, second = rest.partition("</Path>\n")
    second = second[: second.index("</Path>") + len("</Path>")]
    body = len(encode(second.split("2:", 1)[1], tokenizer, dialect))
    alone = causal(model, encode(head + second, tokenizer, dialect))[-body:]
    seeing = causal(model, encode(f"{head}<Path>{first}</Path>\n{second}", tokenizer, dialect))
    assert two.tokens == body
    assert two.alone == pytest.approx(alone.sum(), rel=1e-3, abs=1e-3)
    assert two.seeing == pytest.approx(seeing[-body:].sum(), rel=1e-3, abs=1e-3)
    assert one.label == "1" and two.label == "2"


def test_the_shipped_model_gains_nothing_from_siblings(model, tokenizer, dialect) -> None:
    """It was trained on paths that see none, and to write these."""
    for problem in islice(generate(3, "test"), 4):
        text = solution(problem, "parallel")
        if "<Path>" in text:
            score = ModelScore(model)
            assert check_likelihood(text, tokenizer, dialect, score, max_gain=0.05) == []


def cache_model(size: int):
    """A language model in three lines: how often a token has been seen among those visible."""

    def score(ids: Sequence[int], laid: Layout) -> np.ndarray:
        tokens = np.asarray(ids)
        nll = np.zeros(len(tokens))
        for t in range(len(tokens)):
            visible = tokens[:t][laid.order[:t] <= laid.order[t]]
            nll[t] = -np.log((np.sum(visible == tokens[t]) + 0.01) / (len(visible) + 0.01 * size))
        return nll

    return score


def test_a_path_that_repeats_its_sibling_is_found(tokenizer, dialect) -> None:
    text = whole().replace("Adding 12 and 30 gives 42.", "An otter, quartz 888 and a lantern 777.")
    text = text.replace("Subtracting 12 from 29 gives 17.", "quartz 888 777 lantern otter quartz")
    score = cache_model(len(tokenizer))
    gains = sibling_gains(text, tokenizer, dialect, score)
    assert gains[1].per_token > 0.2
    found = check_likelihood(text, tokenizer, dialect, score, max_gain=0.2)
    assert {f.code for f in found} == {"sibling-likelihood"}
    spans = [text[slice(*f.span)].strip() for f in found if f.span]
    assert "quartz 888 777 lantern otter quartz" in spans


def test_nested_paths_and_a_first_path_are_scored(tokenizer, dialect) -> None:
    from tests.data_pipeline.mutations import synthetic

    gains = sibling_gains(synthetic(1), tokenizer, dialect, cache_model(len(tokenizer)))
    assert [gain.label for gain in gains] == ["1", "2", "3", "2.1", "2.2", "1", "2"]
    assert all(gain.tokens > 0 and np.isfinite(gain.per_token) for gain in gains)
