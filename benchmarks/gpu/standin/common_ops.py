"""A stand-in for the compiled library of ``sgl_kernel``, for ``server.py`` alone.

The wheel of sglang-kernel 0.4.10 is built for torch 2.14 and too large to carry. Its Python,
carried unchanged, looks for a module of this name where it finds no library of its own. The few
operators that a small dense model can reach are written here in plain torch; everything else of
``sgl_kernel`` fails as an operator that does not exist. In bfloat16 SGLang takes norms,
activations, rotary embeddings and stores from FlashInfer and from kernels it compiles itself, so
of these only ``weak_ref_tensor`` is on the way there.
"""

from __future__ import annotations

import torch
from torch.nn import functional

STAND_IN = "plain torch in place of sgl_kernel's compiled operators"

_library = torch.library.Library("sgl_kernel", "DEF")


def _op(schema: str):  # type: ignore[no-untyped-def]
    _library.define(schema)

    def add(function):  # type: ignore[no-untyped-def]
        _library.impl(schema.partition("(")[0], function, "CompositeExplicitAutograd")
        return function

    return add


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * weight.float()).to(x.dtype)


@_op("rmsnorm(Tensor! out, Tensor input, Tensor weight, float eps, bool enable_pdl) -> ()")
def rmsnorm(out, input, weight, eps, enable_pdl):  # type: ignore[no-untyped-def]
    out.copy_(_normed(input, weight, eps))


@_op(
    "fused_add_rmsnorm(Tensor! input, Tensor! residual, Tensor weight, float eps, "
    "bool enable_pdl) -> ()"
)
def fused_add_rmsnorm(input, residual, weight, eps, enable_pdl):  # type: ignore[no-untyped-def]
    residual.add_(input)
    input.copy_(_normed(residual, weight, eps))


@_op("silu_and_mul(Tensor! out, Tensor input) -> ()")
def silu_and_mul(out, input):  # type: ignore[no-untyped-def]
    gate, up = input.chunk(2, -1)
    out.copy_(functional.silu(gate) * up)


@_op("weak_ref_tensor(Tensor tensor) -> Tensor")
def weak_ref_tensor(tensor):  # type: ignore[no-untyped-def]
    """A strong reference: graphs share less memory, and answers are the same."""
    return tensor.detach()
