"""A whole model in training on a device: are its gradients right, what does a step cost.

    python benchmarks/gpu/model.py [--dry-run] [--json FILE]

Random weights of the shape of Qwen2.5-0.5B (24 layers, 14 query heads, 2 KV heads, 64 wide;
a vocabulary of 32,768), through ``enable_multiverse_attention`` as the trainers do. Gradients are
compared with SDPA's under the dense mask in float32; the error of SDPA in bfloat16 stands beside as
a yardstick, and the mean over parameters of FlexAttention and of segments may be at most
:data:`YARDSTICKS` of it, else the exit code is 1. Steps are forward and backward with gradient
checkpointing. Needs transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from cases import ROOT, Shape
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM, Qwen2Config
from wrappers import Kernels, arguments, machine, report

import sglang_multiverse
from sglang_multiverse.layout import Layout, layout_of

sglang_multiverse.__path__.append(str(ROOT))  # the training room, where nothing is installed
from sglang_multiverse.training.attention import enable_multiverse_attention  # noqa: E402

YARDSTICKS = 1.5

STEPS = (
    Shape(8192, 8, 3, 0.35),
    Shape(16384, 8, 4, 0.8),
    Shape(2048, 16, 4, 0.5),
)


@dataclass(frozen=True)
class Way:
    """How a model attends: its implementation, and whether it is told the order."""

    implementation: str
    ordered: bool


WAYS = {
    "flex, by order": Way("flex_attention", ordered=True),
    "flex, causal": Way("flex_attention", ordered=False),
    "segments, by order": Way("multiverse", ordered=True),
    "sdpa, by order": Way("sdpa", ordered=True),
    "sdpa, causal": Way("sdpa", ordered=False),
}


def config(small: bool) -> Qwen2Config:
    sizes = (
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        if small
        else {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    )
    heads = {"num_attention_heads": 14, "num_key_value_heads": 2}
    if small:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2Config(
        vocab_size=512 if small else 32768, max_position_embeddings=65536, **sizes, **heads
    )


def build(kernels: Kernels, way: Way, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    with kernels.device:  # to draw half a billion weights on a CPU takes seconds
        made = AutoModelForCausalLM.from_config(
            config(kernels.dry), attn_implementation=way.implementation
        )
    made.to(dtype=dtype)
    made.gradient_checkpointing_enable({"use_reentrant": False})
    made.train()
    return enable_multiverse_attention(made)


def inputs(kernels: Kernels, text: Layout, way: Way) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, config(kernels.dry).vocab_size, (1, len(text)), generator=generator)
    given = {"input_ids": ids, "labels": ids}
    if way.ordered:
        given["position_ids"] = torch.from_numpy(text.position)[None]
        given["multiverse_order"] = torch.from_numpy(text.order)[None].to(torch.int32)
    return {name: value.to(kernels.device) for name, value in given.items()} | {"use_cache": False}


def gradients(kernels: Kernels, text: Layout, way: Way, dtype: torch.dtype) -> Any:
    """The loss, and every gradient by name."""
    made = build(kernels, way, dtype)
    loss = made(**inputs(kernels, text, way)).loss
    loss.backward()
    return float(loss.detach()), {name: p.grad.float() for name, p in made.named_parameters()}


def check(kernels: Kernels, shape: Shape) -> dict[str, Any]:
    text = layout_of(shape.trace())
    by_order = Way("sdpa", ordered=True)
    exact_loss, exact = gradients(kernels, text, by_order, torch.float32)
    found: dict[str, Any] = {"structure": str(shape), "loss": exact_loss}
    tried = {"sdpa": by_order, "segments": WAYS["segments, by order"]}
    if not kernels.dry:
        tried["flex"] = WAYS["flex, by order"]
    tried["causal"] = Way("sdpa", ordered=False)  # what an error of the mask would look like
    for name, way in tried.items():
        loss, got = gradients(kernels, text, way, torch.bfloat16)
        errors = [float((got[n] - g).norm() / g.norm()) for n, g in exact.items() if g.norm() > 0]
        same = [
            float(cosine_similarity(got[n].flatten(), g.flatten(), 0)) for n, g in exact.items()
        ]
        found[name] = {
            "loss": abs(loss - exact_loss),
            "worst gradient": max(errors),
            "mean gradient": sum(errors) / len(errors),
            "least cosine": min(same),
        }
    return found


def steps(kernels: Kernels, shapes: tuple[Shape, ...], repeats: int) -> Iterator[dict[str, Any]]:
    for shape in shapes:
        text = layout_of(shape.trace())
        result: dict[str, Any] = {"structure": str(shape), "tokens": shape.tokens}
        for name, way in WAYS.items():
            if kernels.dry and way.implementation == "flex_attention":
                continue  # no backward on a CPU
            result[name] = _time_step(kernels, text, way, repeats)
        for name in set(result) & {"flex, by order", "segments, by order", "sdpa, by order"}:
            result[f"{name} / sdpa, causal"] = result[name]["ms"] / result["sdpa, causal"]["ms"]
        yield result


def _time_step(kernels: Kernels, text: Layout, way: Way, repeats: int) -> dict[str, float]:
    torch.compiler.reset()
    made = build(kernels, way, torch.bfloat16)
    given = inputs(kernels, text, way)

    def step() -> None:
        made(**given).loss.backward()
        made.zero_grad()

    if not kernels.dry:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = kernels.time(step, repeats)
    if not kernels.dry:
        times["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return times


def main() -> int:
    options = arguments(__doc__).parse_args()
    small = options.dry_run
    kernels = Kernels(small)
    checked = check(
        kernels, Shape(192, 2, 3, 0.6) if small else Shape(2048, 4, 3, 0.6, nested=True)
    )
    allowed = YARDSTICKS * checked["sdpa"]["mean gradient"]
    failed = [
        name
        for name in ("flex", "segments")
        if name in checked and checked[name]["mean gradient"] > allowed
    ]
    result: dict[str, Any] = {"machine": machine(small, flashinfer=False), "failed": failed}
    result |= {"gradients": checked, "steps": []}
    for row in steps(kernels, (Shape(256, 2, 3, 0.5),) if small else STEPS, 2 if small else 5):
        result["steps"].append(row)
        report(result, options.json)  # as it comes: a run that is cut short leaves what it has
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
