"""The tiny model's shape: a Qwen2 of 1.7 M parameters over its own tokenizer."""

from __future__ import annotations

from itertools import islice

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from ...layout import LAYOUT_VERSION
from ..solution import solution
from ..task import ALL_KINDS, NAMES, PART_NAMES, TOTAL, generate, prompt
from .tokenizer import build_tokenizer

#: Problems whose texts the tokenizer's merges are learnt from.
TOKENIZER_PROBLEMS = 1500


def tiny_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """The tokenizer of the task's texts, the same for the same seed."""
    problems = list(islice(generate(seed, "train", ALL_KINDS), TOKENIZER_PROBLEMS))
    texts = (
        text
        for problem in problems
        for mode in ("parallel", "sequential")
        for text in (prompt(problem, mode), solution(problem, mode), "user\nassistant\nsystem")
    )
    # What a name is bound to begins right after one token that holds the name: looking it up is
    # then what attention learns most easily, "find this token, copy what follows it".
    names = NAMES + "".join(PART_NAMES.values()) + TOTAL
    bindings = [f" {name} {verb} " for name in names for verb in ("=", "is")]
    return build_tokenizer(texts, words=bindings)


def tiny_config(tokenizer: Qwen2Tokenizer) -> Qwen2Config:
    """The architecture; embeddings are tied, heads are grouped two to one."""
    return Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        use_sliding_window=False,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
        dtype="float32",
    )


def tiny_model(tokenizer: Qwen2Tokenizer, seed: int = 0) -> Qwen2ForCausalLM:
    """A freshly initialised model; ``config.multiverse`` records the layout it is trained with."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(tiny_config(tokenizer))
    model.config.multiverse = {"layout": LAYOUT_VERSION}
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model
