"""Small random models of every architecture the seam is tested on, and batches with an oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from sglang_multiverse.layout import layout, pack, plain

from ..core.generate import DIALECT, Made, make
from ..core.oracle import Bools, chains, heights, shared, visible

_SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "qwen2": lambda **changes: Qwen2Config(**{**_SHAPE, **changes}),
    "qwen3": lambda **changes: Qwen3Config(**{**_SHAPE, **changes}),
    "qwen3_moe": lambda **changes: Qwen3MoeConfig(
        **{
            **_SHAPE,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            **changes,
        }
    ),
    "llama": lambda **changes: LlamaConfig(**{**_SHAPE, **changes}),
    "mistral": lambda **changes: MistralConfig(**{**_SHAPE, "sliding_window": 512, **changes}),
    "gemma3": lambda **changes: Gemma3TextConfig(
        **{
            **_SHAPE,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
            **changes,
        }
    ),
}

ARCHITECTURES = tuple(CONFIGS)


def tiny(
    name: str, implementation: str = "sdpa", *, seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """Two layers, grouped heads, random weights; the same weights for the same seed."""
    torch.manual_seed(seed)
    config = CONFIGS[name](**changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    return model.float().eval()


@dataclass
class Batch:
    """Rows with what the seam takes, and with what brute force says of them.

    Attributes:
        given: ``input_ids``, ``attention_mask``, ``position_ids``, ``multiverse_order`` and, where
            paths share, ``multiverse_rank``.
        seen: visible pairs ``[row, q, k]`` from the paths' addresses.
        heights: longest visible chains, ``[row, t]``.
        real: which tokens are no padding, ``[row, t]``.
    """

    given: dict[str, torch.Tensor]
    seen: Bools
    heights: np.ndarray
    real: Bools

    def by_brute_force(self, implementation: str = "sdpa") -> dict[str, torch.Tensor]:
        """Inputs for a model without the hook."""
        mask = torch.from_numpy(self.seen)[:, None]
        if implementation == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return {
            "input_ids": self.given["input_ids"],
            "attention_mask": mask,
            "position_ids": torch.from_numpy(self.heights),
        }


def nested_text(seed: int, *, depth: int = 2) -> Made:
    """A text of two or three blocks, nested at least ``depth`` deep; every second is canonical."""
    for candidate in range(seed, seed + 500):
        made = make(candidate, depth=3, blocks=max(2, depth), canonical=candidate % 2 == 0)
        if max((found for _, found in made.blocks()), default=0) >= depth:
            return made
    raise ValueError(f"no text nested {depth} deep from seed {seed} on")


def batch(*rows: list[Made], share_every: int | None = None) -> Batch:
    """Each row holds its texts end to end and is padded on the right to the longest."""
    length = max(sum(len(made.tokens()) for made in row) for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    seen = np.zeros((len(rows), length, length), dtype=bool)
    real = np.zeros((len(rows), length), dtype=bool)
    wholes = []
    for i, row in enumerate(rows):
        at, laid = 0, []
        for made in row:
            tokens = made.tokens()
            end = at + len(tokens)
            ids[i, at:end] = tokens
            addresses = [address for _, address in made.walk(())]
            seen[i, at:end, at:end] = (
                shared(addresses, share_every) if share_every else visible(addresses)
            )
            laid.append(layout(tokens, DIALECT, share_every=share_every))
            at = end
        real[i, :at] = True
        seen[i, at:, at:] = np.tri(length - at, dtype=bool)
        wholes.append(pack([*laid, plain(length - at)]))
    given = {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(real).long(),
        "position_ids": torch.from_numpy(np.stack([whole.position for whole in wholes])),
        "multiverse_order": integers([whole.order for whole in wholes]),
    }
    if share_every:
        given["multiverse_rank"] = integers([whole.ranks for whole in wholes])
    longest = chains if share_every else heights
    return Batch(
        given=given, seen=seen, heights=np.array([longest(row) for row in seen]), real=real
    )


def integers(rows: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows)).to(torch.int32)


@cache
def packed_and_padded(seed: int = 0, share_every: int | None = None) -> Batch:
    """A row of two nested texts and a row of one that nests three deep, padded."""
    return batch(
        [nested_text(seed), nested_text(seed + 101)],
        [nested_text(seed + 202, depth=3)],
        share_every=share_every,
    )
