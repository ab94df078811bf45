"""A forward over SGLang's own pools, layer and batch, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode

from .dense import Batch


@dataclass
class Forward:
    """A batch in the pools: cached tokens are written, new ones are in ``k`` and ``v``."""

    runner: Any
    layer: RadixAttention
    forward_batch: ForwardBatch
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def pools(batch: Batch) -> tuple[ReqToTokenPool, MHATokenToKVPool]:
    """SGLang's pools with the page tables of ``batch``, and NaN in every slot of KV."""
    longest = max(len(table) for table in batch.tables)
    rows = ReqToTokenPool(len(batch.rows) + 3, longest + 5, "cpu", False)
    slots, heads, dim = batch.k.shape
    kv = MHATokenToKVPool(slots, 1, batch.k.dtype, heads, dim, 1, "cpu", False)
    for buffer in (*kv.k_buffer, *kv.v_buffer):
        buffer.fill_(torch.nan)
    return rows, kv


def forward_of(batch: Batch) -> Forward:
    """The forward that extends every row of ``batch``; rows stand apart in the pool of rows."""
    row_pool, kv_pool = pools(batch)
    layer = RadixAttention(
        batch.q.shape[1], batch.q.shape[2], batch.scale, batch.k.shape[1], layer_id=0
    )
    indices = torch.arange(len(batch.rows)).flip(0) + 2
    for index, table in zip(indices, batch.tables, strict=True):
        row_pool.req_to_token[index, : len(table)] = table.to(torch.int32)
    written = [
        table[: row.extend.prefix_len] for row, table in zip(batch.rows, batch.tables, strict=True)
    ]
    new = torch.cat([table[row.new] for row, table in zip(batch.rows, batch.tables, strict=True)])
    for slots in written:
        kv_pool.k_buffer[0][slots] = batch.k[slots]
        kv_pool.v_buffer[0][slots] = batch.v[slots]
    prefixes = [row.extend.prefix_len for row in batch.rows]
    ends = [row.extend.end for row in batch.rows]
    lengths = [end - prefix for prefix, end in zip(prefixes, ends, strict=True)]
    forward_batch = ForwardBatch(
        forward_mode=ForwardMode.EXTEND,
        batch_size=len(batch.rows),
        input_ids=torch.zeros(len(new), dtype=torch.long),
        req_pool_indices=indices,
        seq_lens=torch.tensor(ends),
        out_cache_loc=new,
        seq_lens_sum=sum(ends),
        seq_lens_cpu=torch.tensor(ends),
        extend_num_tokens=len(new),
        extend_seq_lens=torch.tensor(lengths),
        extend_prefix_lens=torch.tensor(prefixes),
        extend_seq_lens_cpu=lengths,
        extend_prefix_lens_cpu=prefixes,
    )
    runner = SimpleNamespace(device="cpu", req_to_token_pool=row_pool, token_to_kv_pool=kv_pool)
    return Forward(runner, layer, forward_batch, batch.q.flatten(1), batch.k[new], batch.v[new])
