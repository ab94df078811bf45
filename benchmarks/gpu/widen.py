"""The same function at another size: a tiny Qwen2 inside a larger one.

FlashInfer's kernels take heads of 64 and more, and a decode step of a model of 1 M weights costs
nothing but launches. So a checkpoint is put into a larger shape that computes the same: heads are
padded with zeros, its rotary frequencies keeping their places among the more numerous ones, the
hidden size with zeros that its norms make up for, and layers are added that add nothing. All
factors are powers of two where the sizes allow, so answers differ by rounding alone.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Size:
    """Of the larger model; its KV heads stay as many."""

    hidden: int
    intermediate: int
    layers: int
    heads: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


#: Heads that FlashInfer takes, eight to a KV head, and little else. SGLang's Qwen2 has heads of
#: ``hidden / heads``.
NARROW = Size(2048, 512, 4, 16)
#: Qwen2.5-3B, except for its vocabulary.
WIDE = Size(2048, 11008, 36, 16)


def widen(source: Path, target: Path, size: Size, dtype: torch.dtype) -> int:
    """Write ``source`` at ``size`` to the folder ``target``; how many weights it has.

    Raises:
        ValueError: the size does not hold the checkpoint.
    """
    config = json.loads((source / "config.json").read_text())
    old = Size(
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
    )
    groups = config["num_key_value_heads"]
    for name in ("hidden", "intermediate", "layers", "heads", "head_dim"):
        if getattr(size, name) < getattr(old, name):
            raise ValueError(f"{name} {getattr(size, name)} is less than {getattr(old, name)}")
    if size.head_dim % old.head_dim or size.heads % groups:
        raise ValueError("heads must be whole multiples of the checkpoint's")
    weights = _weights(load_file(source / "model.safetensors"), old, size, groups, dtype)
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name not in ("model.safetensors", "config.json", "README.md"):
            shutil.copy(file, target)
    config |= {
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "head_dim": size.head_dim,
        "rms_norm_eps": config["rms_norm_eps"] * old.hidden / size.hidden,
        "layer_types": ["full_attention"] * size.layers,
        "dtype": str(dtype).removeprefix("torch."),
    }
    (target / "config.json").write_text(json.dumps(config, indent=2))
    save_file({name: x.to(dtype) for name, x in weights.items()}, target / "model.safetensors")
    return sum(x.numel() for x in weights.values())


def _weights(
    source: dict[str, torch.Tensor], old: Size, new: Size, groups: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    queries = _rows(old.heads, old.head_dim, new.heads, new.head_dim, groups)
    keys = _rows(groups, old.head_dim, groups, new.head_dim, groups)
    values = torch.cat([torch.arange(old.head_dim) + i * new.head_dim for i in range(groups)])
    attended = torch.cat(
        [
            torch.arange(old.head_dim) + _place(i, old.heads, new.heads, groups) * new.head_dim
            for i in range(old.heads)
        ]
    )
    hidden, inner = torch.arange(old.hidden), torch.arange(old.intermediate)
    louder = math.sqrt(new.head_dim / old.head_dim)  # against the smaller scale of scores
    quieter = math.sqrt(old.hidden / new.hidden)  # against a mean over more zeros
    places = {
        "self_attn.q_proj": (queries, hidden, new.heads * new.head_dim, new.hidden, louder),
        "self_attn.k_proj": (keys, hidden, groups * new.head_dim, new.hidden, 1.0),
        "self_attn.v_proj": (values, hidden, groups * new.head_dim, new.hidden, 1.0),
        "self_attn.o_proj": (hidden, attended, new.hidden, new.heads * new.head_dim, 1.0),
        "mlp.gate_proj": (inner, hidden, new.intermediate, new.hidden, 1.0),
        "mlp.up_proj": (inner, hidden, new.intermediate, new.hidden, 1.0),
        "mlp.down_proj": (hidden, inner, new.hidden, new.intermediate, 1.0),
    }
    out = {
        "model.embed_tokens.weight": _padded(source["model.embed_tokens.weight"], new.hidden),
        "model.norm.weight": _padded(source["model.norm.weight"] * quieter, new.hidden),
    }
    for layer in range(new.layers):
        front = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"{front}{norm}.weight"
            given = source.get(name)
            out[name] = (
                torch.ones(new.hidden) if given is None else _padded(given * quieter, new.hidden)
            )
        for part, (rows, columns, height, width, factor) in places.items():
            given = source.get(f"{front}{part}.weight")
            matrix = torch.zeros(height, width, dtype=dtype)
            if given is not None:
                matrix[rows[:, None], columns] = (given.float() * factor).to(dtype)
            out[f"{front}{part}.weight"] = matrix
            if f"model.layers.0.{part}.bias" in source:
                bias = torch.zeros(height)
                if given is not None:
                    bias[rows] = source[f"{front}{part}.bias"].float() * factor
                out[f"{front}{part}.bias"] = bias
    return out


def _padded(x: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(x.float(), (0, width - x.shape[-1]))


def _place(head: int, heads: int, more: int, groups: int) -> int:
    """A query head's place, beside the same KV head as before."""
    return head // (heads // groups) * (more // groups) + head % (heads // groups)


def _rows(heads: int, dim: int, more: int, wider: int, groups: int) -> torch.Tensor:
    """Rows of a rotated projection: each pair of dimensions where its frequency stands."""
    pair = torch.arange(dim // 2) * (wider // dim)
    places = torch.cat([pair, pair + wider // 2])
    return torch.cat([places + _place(i, heads, more, groups) * wider for i in range(heads)])
