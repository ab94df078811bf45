"""A small random model per test, and the tiny model's tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.tiny.factory.model import tiny_tokenizer

MakeModel = Callable[..., Qwen2ForCausalLM]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Qwen2Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def dialect(tokenizer: Qwen2Tokenizer) -> Dialect:
    return Dialect.from_tokenizer(tokenizer)


@pytest.fixture
def make_model() -> MakeModel:
    """``make_model(vocab, attn_implementation=…)``: two layers, grouped heads, random weights."""

    def make(vocab: int = 64, attn_implementation: str = "sdpa", **changes: object):
        torch.manual_seed(0)
        config = Qwen2Config(
            **{
                "vocab_size": vocab,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "initializer_range": 0.3,
                "tie_word_embeddings": True,
                "pad_token_id": 0,
                **changes,
            }
        )
        config._attn_implementation = attn_implementation
        return Qwen2ForCausalLM(config).eval()

    return make
