"""Runs of an extend as one plan of FlashInfer's paged prefill wrapper. Knows no SGLang, so that the
call itself can be checked on a machine that has a GPU and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .plan import ExtendPlan


@dataclass(frozen=True)
class Sizes:
    """What a plan must know of the model: heads of one rank, and types."""

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    q_data_type: torch.dtype
    kv_data_type: torch.dtype

    @classmethod
    def of(cls, updater: Any) -> Sizes:
        """Of an indices updater of SGLang's FlashInfer backend."""
        return cls(
            updater.num_qo_heads,
            updater.num_kv_heads,
            updater.head_dim,
            updater.q_data_type,
            updater.data_type,
        )

    @property
    def bytes_per_token(self) -> int:
        """Of K and V, in one layer of one rank."""
        return int(2 * self.num_kv_heads * self.head_dim * self.kv_data_type.itemsize)


def plan_runs(wrapper: Any, made: ExtendPlan, indices: torch.Tensor, sizes: Sizes) -> None:
    """One row per run, causal, pages of one token.

    Running sums stay on the host, where the wrapper reads them: given on the device, each would be
    copied back, and wait for all that is queued there.

    Args:
        wrapper: a ``BatchPrefillWithPagedKVCacheWrapper``.
        indices: slots of the ranges of ``made``, as :func:`~.kv_indices.kv_indices` gives them.
    """
    wrapper.plan(
        torch.from_numpy(made.qo_indptr),
        torch.from_numpy(made.kv_indptr),
        indices,
        torch.ones(len(made), dtype=torch.int32),
        sizes.num_qo_heads,
        sizes.num_kv_heads,
        sizes.head_dim,
        1,
        causal=True,
        q_data_type=sizes.q_data_type,
        kv_data_type=sizes.kv_data_type,
        non_blocking=True,
    )


__all__ = ["Sizes", "plan_runs"]
