"""What stands for FlashInfer's kernels where there is no GPU: its wrappers' plans, taken literally.

Every call is bound to the signature of the real method, so a name that FlashInfer does not know
fails here. Answers are computed in float64 by the definition of a plan: row ``i`` has the queries
``qo_indptr[i]:qo_indptr[i + 1]`` over the slots ``kv_indices[kv_indptr[i]:kv_indptr[i + 1]]``.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import flashinfer
import torch
from flashinfer.decode import BatchDecodeWithPagedKVCacheWrapper
from flashinfer.prefill import BatchPrefillWithPagedKVCacheWrapper

from .dense import causal_of_run

assert flashinfer.__version__


def bound(method: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Arguments by the names of the real method."""
    call = inspect.signature(inspect.unwrap(method)).bind(None, *args, **kwargs)
    call.apply_defaults()
    return call.arguments


class Wrapper:
    """One plan at a time, run densely."""

    made: ClassVar[list[Wrapper]] = []

    def __init__(self, workspace: torch.Tensor, layout: str, *, backend: str = "auto", **_: Any):
        assert (layout, backend) == ("NHD", "fa2")
        self.planned: dict[str, Any] = {}
        self.plans = 0
        Wrapper.made.append(self)

    def _note(self, plan: dict[str, Any], qo_indptr: torch.Tensor, prefix: str) -> None:
        kv_indptr = plan[f"{prefix}indptr"]
        last_page = plan["paged_kv_last_page_len" if prefix else "last_page_len"]
        rows = len(last_page)
        assert plan["page_size"] == 1
        assert last_page.tolist() == [1] * rows
        assert len(qo_indptr) == len(kv_indptr) == rows + 1 > 1
        assert (kv_indptr.diff() > 0).all(), "FlashInfer was given a row without keys"
        assert qo_indptr.dtype == kv_indptr.dtype == plan[f"{prefix}indices"].dtype == torch.int32
        self.qo, self.kv = qo_indptr.tolist(), kv_indptr.tolist()
        self.indices = plan[f"{prefix}indices"]
        self.planned = plan
        self.plans += 1

    def _run(
        self, q: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor], call: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert call["window_left"] == -1
        assert not call["logits_soft_cap"]
        causal = call.get("causal", False)
        assert (q.shape[1], q.shape[2]) == (self.planned["num_qo_heads"], self.head_dim)
        assert len(q) == self.qo[-1]
        out = torch.empty(*q.shape, dtype=torch.float64)
        log = torch.empty(*q.shape[:2], dtype=torch.float64)
        share = q.shape[1] // cache[0].shape[1]
        for i in range(len(self.qo) - 1):
            rows = slice(self.qo[i], self.qo[i + 1])
            slots = self.indices[self.kv[i] : self.kv[i + 1]].long()
            k, v = (x[slots].double().repeat_interleave(share, 1) for x in cache)
            score = torch.einsum("qhd,khd->hqk", q[rows].double(), k) * call["sm_scale"]
            if causal:
                mask = causal_of_run(rows.stop - rows.start, len(slots))
                score = score.masked_fill(~torch.from_numpy(mask), -math.inf)
            out[rows] = torch.einsum("hqk,khd->qhd", score.softmax(-1), v)
            log[rows] = score.logsumexp(-1).T / math.log(2)
        return out.to(q.dtype), log.float() if q.dtype != torch.float64 else log


class Prefill(Wrapper):
    """``BatchPrefillWithPagedKVCacheWrapper``."""

    def plan(self, *args: Any, **kwargs: Any) -> None:
        plan = bound(BatchPrefillWithPagedKVCacheWrapper.plan, *args, **kwargs)
        assert plan["custom_mask"] is None and plan["packed_custom_mask"] is None
        self.head_dim = plan["head_dim_qk"]
        self._note(plan, plan["qo_indptr"], "paged_kv_")

    begin_forward = plan

    def forward(self, q: torch.Tensor, cache: Any, **kwargs: Any) -> torch.Tensor:
        call = bound(BatchPrefillWithPagedKVCacheWrapper.forward, q, cache, **kwargs)
        return self._run(q, cache, call)[0]

    def forward_return_lse(self, q: torch.Tensor, cache: Any, **kwargs: Any) -> Any:
        method = BatchPrefillWithPagedKVCacheWrapper.forward_return_lse
        return self._run(q, cache, bound(method, q, cache, **kwargs))


class Decode(Wrapper):
    """``BatchDecodeWithPagedKVCacheWrapper``."""

    is_cuda_graph_enabled = False

    def plan(self, *args: Any, **kwargs: Any) -> None:
        plan = bound(BatchDecodeWithPagedKVCacheWrapper._plan_impl, *args, **kwargs)
        self.head_dim = plan["head_dim"]
        rows = len(plan["indptr"])
        self._note(plan, torch.arange(rows, dtype=torch.int32), "")

    begin_forward = plan

    def forward(self, q: torch.Tensor, cache: Any, **kwargs: Any) -> torch.Tensor:
        call = bound(BatchDecodeWithPagedKVCacheWrapper.forward, q, cache, **kwargs)
        return self._run(q, cache, call)[0]

    def forward_return_lse(self, q: torch.Tensor, cache: Any, **kwargs: Any) -> Any:
        method = BatchDecodeWithPagedKVCacheWrapper.forward_return_lse
        return self._run(q, cache, bound(method, q, cache, **kwargs))


def merge(
    a: torch.Tensor, log_a: torch.Tensor, b: torch.Tensor, log_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``merge_state``: two answers and their logarithms to base 2."""
    both = torch.logaddexp2(log_a, log_b)
    weight_a, weight_b = (torch.exp2(log - both).unsqueeze(-1) for log in (log_a, log_b))
    return (a * weight_a + b * weight_b).to(a.dtype), both
