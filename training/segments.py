"""Attention by segments: the mask of a layout at the cost of causal attention.

A *span* is a run of tokens that see one fixed set of others: causal attention inside it, full
attention to each range of that set. The pieces of a softmax over disjoint keys are merged by their
log-sum-exp (LSE), and a kernel's backward pass needs of the whole only its output and LSE: given
the merged ones, each piece returns its exact share of the gradient. Nothing of the size of a mask
is ever made, and hidden pairs are not computed.

Spans are found from ``order`` and ``rank`` alone, whatever texts, packing or padding they lay out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layout import IntArray, Ranges


class Span(NamedTuple):
    """Tokens ``[start, end)`` of a row, and the ranges that all of them see beside one another."""

    start: int
    end: int
    prefix: Ranges


class Rectangle(NamedTuple):
    """Queries ``[start, end)`` that all see the keys ``[first, last)``."""

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class RowPlan:
    """The visible pairs of one row: a triangle over each of ``runs``, and ``rectangles``.

    Attributes:
        runs: ``[start, end)`` of the spans, which tile the row.
        rectangles: each pair outside the triangles that is visible lies in exactly one.
    """

    runs: Ranges
    rectangles: tuple[Rectangle, ...]

    @property
    def pairs(self) -> int:
        """Visible pairs of a query and a key."""
        inside = sum((end - start) * (end - start + 1) // 2 for start, end in self.runs)
        return inside + sum((r.end - r.start) * (r.last - r.first) for r in self.rectangles)


@dataclass(frozen=True)
class Plan:
    """What each row of a batch attends by; rows ``[first, last)`` of one plan are one call."""

    groups: tuple[tuple[int, int, RowPlan], ...]


def spans(order: IntArray, rank: IntArray | None = None) -> list[Span]:
    """The fewest spans whose visible pairs are ``rank[k] ≤ rank[q] and order[k] ≤ order[q]``.

    Args:
        order: shape ``(n,)``, of one row; texts packed and padded as :func:`..layout.pack` does.
        rank: the same for ``rank``; None is text order.
    """
    n = len(order)
    if not n:
        return []
    steady = np.diff(order) == 1
    if rank is not None:
        steady &= np.diff(rank) == 1
    starts = np.concatenate([[0], np.flatnonzero(~steady) + 1])
    ends = np.append(starts[1:], n)
    # Runs of consecutive order: a run lies wholly before or wholly behind another in each order.
    before = np.arange(len(starts)) if rank is None else rank[starts]
    below = order[starts]
    seen = (before[None, :] < before[:, None]) & (below[None, :] < below[:, None])
    # A run that sees what the one before it sees, and that one itself, continues it.
    expected = seen[:-1].copy()
    expected[np.arange(len(starts) - 1), np.arange(len(starts) - 1)] = True
    goes_on = np.concatenate([[False], (expected == seen[1:]).all(1)])
    first = np.flatnonzero(~goes_on)
    last = np.append(first[1:], len(starts)) - 1
    return [
        Span(int(starts[a]), int(ends[b]), _ranges(seen[a], starts, ends))
        for a, b in zip(first, last, strict=True)
    ]


def _ranges(seen: npt.NDArray[np.bool_], starts: IntArray, ends: IntArray) -> Ranges:
    """The tokens of the runs in ``seen``, as ranges that are apart."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]])))
    return tuple(
        (int(starts[a]), int(ends[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)
    )


def row_plan(order: IntArray, rank: IntArray | None = None) -> RowPlan:
    """The pieces to compute for one row. Neighbouring spans that see the same range share one."""
    found = spans(order, rank)
    rectangles: list[Rectangle] = []
    since: dict[tuple[int, int], int] = {}  # range → first query of the spans that see it
    for span in found:
        for one in [one for one in since if one not in span.prefix]:
            rectangles.append(Rectangle(since.pop(one), span.start, *one))
        for one in span.prefix:
            since.setdefault(one, span.start)
    rectangles += [Rectangle(start, len(order), *one) for one, start in since.items()]
    return RowPlan(tuple((span.start, span.end) for span in found), tuple(sorted(rectangles)))


def plan(order: Tensor, rank: Tensor | None = None) -> Plan:
    """The plan of a batch from ``order`` and ``rank`` of shape ``(batch, length)``."""
    orders = order.cpu().numpy()
    ranks = [None] * len(orders) if rank is None else list(rank.cpu().numpy())
    rows = [row_plan(one, other) for one, other in zip(orders, ranks, strict=True)]
    groups: list[tuple[int, int, RowPlan]] = []
    for i, row in enumerate(rows):
        if groups and groups[-1][2] == row:
            groups[-1] = (groups[-1][0], i + 1, row)
        else:
            groups.append((i, i + 1, row))
    return Plan(tuple(groups))


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, by: Plan, scale: float | None = None
) -> Tensor:
    """Attention under the layout that ``by`` was made of. Exact, forward and backward.

    Args:
        query: shape ``(batch, heads, length, head_dim)``.
        key, value: shape ``(batch, kv_heads, length, head_dim)``; ``heads`` is a multiple of
            ``kv_heads``.
        scale: of the scores; None is ``head_dim ** -0.5``.

    Returns:
        Shape ``(batch, heads, length, head_dim)``, the heads of one token beside one another in
        memory.

    Raises:
        NotImplementedError: no kernel that returns an LSE for this device, dtype and head sizes.
    """
    device = query.device.type
    if value.shape[-1] != query.shape[-1]:
        raise NotImplementedError(
            f"segment attention has no kernel for values of another size ({value.shape[-1]}) than "
            f"queries ({query.shape[-1]}); load the model with attn_implementation='sdpa'"
        )
    if device not in _KERNELS:
        raise NotImplementedError(f"segment attention has no kernel for {device}")
    if torch.is_autocast_enabled(device):  # as SDPA: rotary positions leave floats among halves
        dtype = torch.get_autocast_dtype(device)
        query, key, value = (one.to(dtype) for one in (query, key, value))
    if device == "cuda" and query.dtype not in (torch.bfloat16, torch.float16):
        raise NotImplementedError(
            f"segment attention on CUDA takes bfloat16 or float16, not {query.dtype}: train with "
            "bf16=True, or load the model with attn_implementation='flex_attention' or 'sdpa'"
        )
    out: Tensor = _SegmentAttention.apply(query, key, value, by, scale)
    return out


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, by: Plan, scale: float | None
    ) -> Tensor:
        batch, heads, length, _ = query.shape
        attend, _ = _KERNELS[query.device.type]
        # At least float32 while pieces are merged: each merge would round once more.
        merging = any(row.rectangles for _, _, row in by.groups)
        wide = torch.promote_types(query.dtype, torch.float32)
        out = query.new_empty(
            (batch, length, heads, value.shape[-1]),
            dtype=wide if merging else query.dtype,
        ).transpose(1, 2)
        lse = query.new_empty((batch, heads, length), dtype=wide)
        for q, k, causal in _pieces(by):
            piece, weight = attend(query[q], key[k], value[k], causal, scale)
            if causal:
                out[q], lse[q] = piece, weight
            else:
                out[q].lerp_(piece.to(out.dtype), torch.sigmoid(weight - lse[q]).unsqueeze(-1))
                torch.logaddexp(lse[q], weight, out=lse[q])
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.by, ctx.scale = by, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        _, differentiate = _KERNELS[query.device.type]
        wide = torch.promote_types(query.dtype, torch.float32)
        grads = [torch.zeros_like(one, dtype=wide) for one in (query, key, value)]
        for q, k, causal in _pieces(ctx.by):
            shares = differentiate(
                grad[q], query[q], key[k], value[k], out[q], lse[q], causal, ctx.scale
            )
            for whole, at, share in zip(grads, (q, k, k), shares, strict=True):
                whole[at] += share
        return *(one.to(query.dtype) for one in grads), None, None


_Index = tuple[slice, slice, slice]


def _pieces(by: Plan) -> Iterator[tuple[_Index, _Index, bool]]:
    """Index of the queries, index of the keys, and whether the piece is causal: triangles first."""
    every = slice(None)
    for first, last, row in by.groups:
        rows = slice(first, last)
        for start, end in row.runs:
            at = (rows, every, slice(start, end))
            yield at, at, True
        for one in row.rectangles:
            yield (rows, every, slice(one.start, one.end)), (rows, every, slice(*one[2:])), False


# Kernels that return an LSE and take one back. torch's own of both devices; the Python function
# scaled_dot_product_attention calls the same and drops the LSE.

_ATEN = torch.ops.aten


def _cpu(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    out, lse = _ATEN._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )
    return out, lse


def _cpu_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float | None,
) -> tuple[Tensor, ...]:
    return tuple(
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, causal, scale=scale
        )
    )


def _cuda(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    out, lse, *_ = _ATEN._scaled_dot_product_flash_attention(
        query, _spread(key, groups), _spread(value, groups), 0.0, causal, False, scale=scale
    )
    return out, lse


def _cuda_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float | None,
) -> tuple[Tensor, ...]:
    groups = query.shape[1] // key.shape[1]
    state, offset = (query.new_empty(shape, dtype=torch.uint64) for shape in ((2,), ()))
    by_query, by_key, by_value = _ATEN._scaled_dot_product_flash_attention_backward(
        grad,
        query,
        _spread(key, groups),
        _spread(value, groups),
        out,
        lse.contiguous(),
        None,  # cumulative lengths, of packed calls alone
        None,
        query.shape[2],
        key.shape[2],
        0.0,
        causal,
        state,  # random state of a dropout that is off
        offset,
        scale=scale,
    )
    return by_query, _gather(by_key, groups), _gather(by_value, groups)


def _spread(heads: Tensor, groups: int) -> Tensor:
    """Each key head once for every query head that reads it."""
    return heads.repeat_interleave(groups, dim=1) if groups > 1 else heads


def _gather(grads: Tensor, groups: int) -> Tensor:
    """The gradient of a key head from those of its query heads."""
    return grads.unflatten(1, (-1, groups)).sum(2, dtype=torch.float32) if groups > 1 else grads


_KERNELS = {"cpu": (_cpu, _cpu_backward), "cuda": (_cuda, _cuda_backward)}


__all__ = [
    "Plan",
    "Rectangle",
    "RowPlan",
    "Span",
    "plan",
    "row_plan",
    "segment_attention",
    "spans",
]
