"""Shared-prefix decode on CUDA: two FlashInfer wrappers and a merge, in the place of one wrapper.

SGLang 0.5.23 has no such decode. FlashInfer's own ``MultiLevelCascadeAttentionWrapper`` runs every
level over every row, so that rows without siblings would need empty ones; here the first level
covers grouped rows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .batch import Siblings, siblings_of
from .cascade_plan import CascadePlan, cascade_plan
from .kv_indices import kv_indices
from .paged import Sizes
from .plan import IntArray, indptr_of

#: ``flashinfer.merge_state``: two answers and their logarithms to base 2 to those of both.
Merge = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]


class CascadeDecodeWrapper:
    """Stands where SGLang's decode path expects one FlashInfer decode wrapper.

    Args:
        shared: a ``BatchPrefillWithPagedKVCacheWrapper``, for the prefixes of groups.
        own: a ``BatchDecodeWithPagedKVCacheWrapper``, for what each row has of its own. Both may
            have the same float workspace: they run one after another.
        merge: joins the answers of the two.
    """

    def __init__(self, shared: Any, own: Any, merge: Merge):
        self._shared = shared
        self._own = own
        self._merge = merge
        self._grouped = 0
        self._order: torch.Tensor | None = None

    def plan(self, forward_batch: Any, translator: Any, sizes: Sizes) -> None:
        """Plan one decode step over both levels.

        Raises:
            ValueError: where the batch names no siblings, or they are none.
        """
        siblings = siblings_of(forward_batch)
        if siblings is None:
            raise ValueError("a cascade over a batch that names no siblings")
        made = _plan_of(siblings, forward_batch)
        if not made.grouped:
            raise ValueError("a cascade over rows without siblings: decode them as stock does")
        indices = kv_indices(translator, forward_batch, _ranges(made))
        shared_tokens = int(made.prefix_len.sum())
        model = (sizes.num_qo_heads, sizes.num_kv_heads, sizes.head_dim, 1)
        types = {"q_data_type": sizes.q_data_type, "kv_data_type": sizes.kv_data_type}
        self._shared.plan(
            torch.from_numpy(made.group_indptr),
            torch.from_numpy(indptr_of(made.prefix_len)),
            indices[:shared_tokens],
            torch.ones(len(made.prefix_len), dtype=torch.int32),
            *model,
            causal=False,
            non_blocking=True,
            **types,
        )
        self._own.plan(
            torch.from_numpy(indptr_of(made.own_len)),
            indices[shared_tokens:],
            torch.ones(len(made.own_len), dtype=torch.int32),
            *model,
            non_blocking=True,
            **types,
        )
        self._grouped = made.grouped
        self._order = torch.from_numpy(made.order).to(indices.device, non_blocking=True)

    def forward(
        self,
        q: torch.Tensor,
        paged_kv_cache: tuple[torch.Tensor, torch.Tensor],
        *,
        sm_scale: float,
        logits_soft_cap: float | None = None,
        k_scale: float | None = None,
        v_scale: float | None = None,
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
        found[head], _ = self._merge(found[head], log[head], above, log_above)
        out = torch.empty_like(found)
        out[self._order] = found
        return out


def _plan_of(siblings: Siblings, forward_batch: Any) -> CascadePlan:
    lengths = forward_batch.seq_lens_cpu
    if lengths is None:
        lengths = forward_batch.seq_lens.cpu()
    return cascade_plan(siblings.groups, siblings.shared, lengths.numpy())


def _ranges(made: CascadePlan) -> IntArray:
    """Prefixes of all groups, then what each row has of its own."""
    rows = np.concatenate([made.prefix_row, made.order])
    starts = np.concatenate([np.zeros_like(made.prefix_len), made.own_start])
    lengths = np.concatenate([made.prefix_len, made.own_len])
    return np.stack([rows, starts, starts + lengths], axis=1)


__all__ = ["CascadeDecodeWrapper", "Merge"]
