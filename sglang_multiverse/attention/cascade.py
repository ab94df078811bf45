"""Shared-prefix decode on CUDA: two FlashInfer wrappers and a merge, in the place of one wrapper.

SGLang 0.5.23 has no such decode. FlashInfer's own ``MultiLevelCascadeAttentionWrapper`` runs every
level over every row, so that rows without siblings would need empty ones; here the first level
covers grouped rows alone. Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sglang.srt.layers.attention import flashinfer_backend

from .batch import Siblings, siblings_of
from .cascade_plan import CascadePlan, cascade_plan
from .kv_indices import kv_indices
from .plan import indptr_of


class CascadeDecodeWrapper:
    """Stands where SGLang's decode path expects one FlashInfer decode wrapper.

    Args:
        workspace: the float workspace of the backend; its wrappers run one after another.
        use_tensor_cores: as the backend's own decode wrapper.
    """

    def __init__(self, workspace: torch.Tensor, *, use_tensor_cores: bool):
        self._shared = flashinfer_backend.BatchPrefillWithPagedKVCacheWrapper(
            workspace, "NHD", backend="fa2"
        )
        self._own = flashinfer_backend.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", backend="fa2", use_tensor_cores=use_tensor_cores
        )
        self._grouped = 0
        self._order: torch.Tensor | None = None

    def plan(
        self,
        forward_batch: Any,
        translator: Any,
        *,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        """Plan one decode step over both levels.

        Raises:
            ValueError: where the batch names no siblings, or they are none.
        """
        siblings = siblings_of(forward_batch)
        if siblings is None:
            raise ValueError("a cascade over a batch that names no siblings")
        made = _plan_of(siblings, forward_batch)
        indices = kv_indices(translator, forward_batch, _ranges(made))
        shared_tokens = int(made.prefix_len.sum())
        self._shared.plan(
            torch.from_numpy(made.group_indptr),
            torch.from_numpy(indptr_of(made.prefix_len)),
            indices[:shared_tokens],
            torch.ones(len(made.prefix_len), dtype=torch.int32),
            num_qo_heads,
            num_kv_heads,
            head_dim,
            1,
            causal=False,
            q_data_type=q_data_type,
            kv_data_type=kv_data_type,
            non_blocking=True,
        )
        self._own.plan(
            torch.from_numpy(indptr_of(made.own_len)),
            indices[shared_tokens:],
            torch.ones(len(made.own_len), dtype=torch.int32),
            num_qo_heads,
            num_kv_heads,
            head_dim,
            1,
            q_data_type=q_data_type,
            kv_data_type=kv_data_type,
            non_blocking=True,
        )
        self._grouped = made.grouped
        self._order = torch.from_numpy(made.order).to(indices.device, non_blocking=True)

    def forward(
        self,
        q: torch.Tensor,
        paged_kv_cache: tuple[torch.Tensor, torch.Tensor],
        *,
        sm_scale: float,
        logits_soft_cap: float | None,
        k_scale: float | None,
        v_scale: float | None,
    ) -> torch.Tensor:
        """Attention of one layer, ``(rows, heads, dim)`` to the same, in the order of the batch."""
        if self._order is None:
            raise RuntimeError("a cascade was run before it was planned")
        scales = {
            "sm_scale": sm_scale,
            "logits_soft_cap": logits_soft_cap,
            "k_scale": k_scale,
            "v_scale": v_scale,
        }
        query = q[self._order]
        found, log = self._own.forward_return_lse(query, paged_kv_cache, **scales)
        head = slice(0, self._grouped)
        above, log_above = self._shared.forward_return_lse(
            query[head], paged_kv_cache, causal=False, **scales
        )
        found[head], _ = flashinfer_backend._safe_merge_state(
            found[head], log[head], above, log_above
        )
        out = torch.empty_like(found)
        out[self._order] = found
        return out


def _plan_of(siblings: Siblings, forward_batch: Any) -> CascadePlan:
    lengths = forward_batch.seq_lens_cpu
    if lengths is None:
        lengths = forward_batch.seq_lens.cpu()
    return cascade_plan(siblings.groups, siblings.shared, lengths.numpy())


def _ranges(made: CascadePlan) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Prefixes of all groups, then what each row has of its own."""
    rows = np.concatenate([made.prefix_row, made.order])
    starts = np.concatenate([np.zeros_like(made.prefix_len), made.own_start])
    lengths = np.concatenate([made.prefix_len, made.own_len])
    return np.stack([rows, starts, starts + lengths], axis=1)


__all__ = ["CascadeDecodeWrapper"]
