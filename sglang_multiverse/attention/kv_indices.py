"""Ranges of page-table rows into the slots a paged wrapper plans over, by SGLang's own kernel.

``KVIndexTranslator.pack_read_stream`` gathers one stretch per lane, from a row and a start; a lane
per range makes a list of any ranges. Verified on SGLang 0.5.23
(``mem_cache/kv_index_translator.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .plan import IntArray, indptr_of

#: Slots behind the last one, as stock allocates: kernels read indices in whole tiles.
PADDING = 256


def kv_indices(translator: Any, forward_batch: Any, ranges: IntArray) -> torch.Tensor:
    """Slots of every range, one after another.

    Args:
        translator: the runner's ``KVIndexTranslator``, of a pool whose reads it does not translate.
        ranges: ``(row of the batch, start, end)``, shape ``(ranges, 3)``, none empty.

    Returns:
        int32 on the batch's device, shape ``(tokens + PADDING,)``.
    """
    rows = forward_batch.req_pool_indices
    lengths = ranges[:, 2] - ranges[:, 1]
    indptr = indptr_of(lengths)
    table = np.stack([ranges[:, 0], ranges[:, 1], lengths, indptr[:-1]])
    # One copy to the device for all of it.
    row, start, length, offset = torch.from_numpy(table).to(rows.device, non_blocking=True)
    out = torch.empty(int(indptr[-1]) + PADDING, dtype=torch.int32, device=rows.device)
    translator.pack_read_stream(
        forward_batch.kv_loc_plan,
        req_pool_indices=rows[row],
        seq_lens=length,
        indptr=offset,
        out=out,
        kv_start_idx=start,
    )
    return out


__all__ = ["PADDING", "kv_indices"]
