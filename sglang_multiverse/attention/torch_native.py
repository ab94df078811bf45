"""The ``multiverse`` backend on a CPU: the segmented plan over SGLang's torch reference backend.

``forward_batch.multiverse_extends`` names the rows of a structured extend; without it, and in
decode, this is the parent to the letter. Verified on SGLang 0.5.23
(``layers/attention/torch_native_backend.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch.nn.functional import scaled_dot_product_attention

from .batch import check_rows, extends_of
from .plan import Extend, ExtendPlan, plan

Range = tuple[int, int]
#: Tokens ``[start, end)`` of a text, to be put at an offset of a buffer.
Write = tuple[int, int, int]


@dataclass(frozen=True)
class Run:
    """Query tokens ``[start, end)`` of a batch over the first ``length`` tokens of a buffer, once
    ``writes`` are made to it."""

    start: int
    end: int
    length: int
    writes: tuple[Write, ...]


@dataclass(frozen=True)
class RowRuns:
    """The runs of one row, in order, over one buffer that begins as the row's text: ``slots``."""

    slots: torch.Tensor
    runs: tuple[Run, ...]


class MultiverseTorchBackend(TorchNativeAttnBackend):  # type: ignore[misc]
    """Serves structured extends with one causal attention per run."""

    def __init__(self, model_runner: Any):
        super().__init__(model_runner)
        self._planned_for: Sequence[Extend] | None = None
        self._rows: list[RowRuns] = []

    def init_forward_metadata(self, forward_batch: Any) -> None:
        super().init_forward_metadata(forward_batch)
        self._planned_for = extends_of(forward_batch)
        if self._planned_for is not None:
            self._rows = self._plan(self._planned_for, forward_batch)

    def _plan(self, extends: Sequence[Extend], forward_batch: Any) -> list[RowRuns]:
        """The runs of one forward, for all of its layers.

        Raises:
            ValueError: where the extends are not those of the batch, or cannot be planned.
        """
        check_rows(extends, forward_batch)
        table = self.req_to_token_pool.req_to_token
        index = forward_batch.req_pool_indices.tolist()
        ends = [extend.end for extend in extends]
        runs = runs_by_row(plan(extends), ends)
        return [RowRuns(table[index[row], : ends[row]], made) for row, made in runs.items()]

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """Writes K and V of the whole batch, then attends: runs read what other runs write."""
        extends = extends_of(forward_batch)
        if extends is None:
            return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
        if extends is not self._planned_for:
            raise RuntimeError(
                "a structured extend reached attention with the plan of another forward: call "
                "init_forward_metadata with the batch that is run"
            )
        _refuse_layer(layer)
        if save_kv_cache and k is not None and v is not None:
            self.token_to_kv_pool.set_kv_buffer(
                layer, KVWriteLoc(forward_batch.out_cache_loc), k, v
            )
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim).movedim(0, 1)
        out = q.new_zeros(q.shape[0], layer.tp_q_head_num, layer.v_head_dim)
        grouped = layer.tp_q_head_num != layer.tp_k_head_num
        for row in self._rows:
            # Gathered once, as stock does: most of what a run sees is what the one before it saw.
            k_row, v_row = keys[row.slots].to(query.dtype), values[row.slots].to(query.dtype)
            for run in row.runs:
                for at, start, end in run.writes:
                    k_row[at : at + end - start] = keys[row.slots[start:end]]
                    v_row[at : at + end - start] = values[row.slots[start:end]]
                out[run.start : run.end] = causal_run(
                    query[:, run.start : run.end],
                    k_row[: run.length].movedim(0, 1),
                    v_row[: run.length].movedim(0, 1),
                    scale=layer.scaling,
                    grouped=grouped,
                ).movedim(1, 0)
        return out.flatten(1)


def runs_by_row(made: ExtendPlan, ends: Sequence[int]) -> dict[int, tuple[Run, ...]]:
    """The runs of every row of a plan, with what each must write over what the one before it left.

    Args:
        ends: tokens of each row of the batch.
    """
    found: dict[int, list[Run]] = {}
    held: dict[int, list[Range]] = {}
    query, kv, ranges = (x.tolist() for x in (made.qo_indptr, made.kv_indptr, made.range_indptr))
    table = made.ranges.tolist()
    for r in range(len(made)):
        mine = table[ranges[r] : ranges[r + 1]]
        row = mine[0][0]
        wanted = [(start, end) for _, start, end in mine]
        writes = writes_between(held.get(row, [(0, ends[row])]), wanted)
        held[row] = wanted
        run = Run(query[r], query[r + 1], kv[r + 1] - kv[r], tuple(writes))
        found.setdefault(row, []).append(run)
    return {row: tuple(runs) for row, runs in found.items()}


def writes_between(held: Sequence[Range], wanted: Sequence[Range]) -> list[Write]:
    """What to write to a buffer that holds some ranges of a text end to end, for it to hold others:
    all from the first token on in which they differ."""
    same = 0
    while same < min(len(held), len(wanted)) and held[same] == wanted[same]:
        same += 1
    at = sum(end - start for start, end in wanted[:same])
    writes = []
    for i, (start, end) in enumerate(wanted[same:]):
        if i == 0 and same < len(held) and held[same][0] == start:
            kept = min(end, held[same][1]) - start
            at, start = at + kept, start + kept
        if start < end:
            writes.append((at, start, end))
            at += end - start
    return writes


def causal_run(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    scale: float,
    grouped: bool,
) -> torch.Tensor:
    """Causal attention of the last tokens of a KV list to all of it, aligned to the bottom right.

    Torch's causal kernel is aligned to the top left, so it fits where there are as many queries as
    keys. Behind other tokens a mask would fit; but torch widens a mask to numbers and visits what
    it hides, so the tokens before and the queries' own are attended apart, and merged.

    Args:
        query: ``(heads, m, dim)``.
        keys: ``(kv_heads, p + m, dim)``, the queries' own last.
        values: likewise.
        grouped: whether several query heads share one KV head.

    Returns:
        ``(heads, m, dim)`` of the values.
    """
    count, length = query.shape[1], keys.shape[1]
    if 1 < count < length:
        return _merged(query, keys, values, scale)
    return scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        is_causal=count > 1,
        scale=scale,
        enable_gqa=grouped,
    )[0]


def _merged(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> torch.Tensor:
    """:func:`causal_run` of several queries behind other tokens."""
    heads, count, dim = query.shape
    kv_heads, length, _ = keys.shape
    share, before = heads // kv_heads, length - count
    own, log_own = _attend(
        query,
        keys[:, before:].repeat_interleave(share, dim=0),
        values[:, before:].repeat_interleave(share, dim=0),
        scale,
        causal=True,
    )
    # No mask here, so the query heads of one KV head are so many more queries of it.
    above, log_above = _attend(
        query.reshape(kv_heads, share * count, dim),
        keys[:, :before],
        values[:, :before],
        scale,
        causal=False,
    )
    weight = torch.sigmoid(log_above.reshape(log_own.shape) - log_own).unsqueeze(-1)
    both = (x.reshape(own.shape).to(weight.dtype) for x in (own, above))
    return torch.lerp(*both, weight).to(query.dtype)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers and the logarithms of the sums of their weights, from the kernel that torch's public
    function runs on a CPU and that alone gives them. Verified on torch 2.14.1."""
    out, log = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query[None], keys[None], values[None], 0.0, causal, scale=scale
    )
    return out[0], log[0]


def _refuse_layer(layer: Any) -> None:
    """Layers that a structured extend has no meaning for."""
    window = layer.sliding_window_size
    for refused, what in (
        (layer.is_cross_attention, "cross attention"),
        (layer.attn_type == AttentionType.ENCODER_ONLY, "attention of an encoder"),
        (window is not None and window > -1, "a sliding window"),
        (layer.qk_head_dim != layer.v_head_dim, "values of another width than keys"),
    ):
        if refused:
            raise ValueError(
                f"layer {layer.layer_id} has {what}, which the multiverse attention backend does "
                "not serve over texts with blocks: serve this model without the plugin"
            )


__all__ = ["MultiverseTorchBackend", "Run", "causal_run", "runs_by_row", "writes_between"]
