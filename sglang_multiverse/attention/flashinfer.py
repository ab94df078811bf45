"""The ``multiverse`` backend on CUDA: the segmented plan over SGLang's FlashInfer backend.

A structured extend is one plan of the paged prefill wrapper, with a row for every run and no mask;
it needs K and V written before attention, which the parent does wherever it plans without the
ragged wrapper. Plain batches, decode and its CUDA graphs are the parent's. Verified on SGLang
0.5.23 (``layers/attention/flashinfer_backend.py``) with FlashInfer 0.7.2, on a CPU with the
kernels replaced; not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang.srt.layers.attention import flashinfer_backend as stock
from sglang.srt.layers.attention.flashinfer_backend import (
    DecodeMetadata,
    FlashInferAttnBackend,
    PrefillMetadata,
    WrapperDispatch,
)
from sglang.srt.runtime_context import get_parallel

from .batch import check_rows, extends_of, siblings_of
from .cascade import CascadeDecodeWrapper
from .cascade_plan import cascade_pays
from .kv_indices import kv_indices
from .paged import Sizes, plan_runs
from .plan import Extend, plan


class MultiverseFlashInferBackend(FlashInferAttnBackend):  # type: ignore[misc]
    """Serves structured extends in one forward, and decodes siblings over their common prefix.

    Args:
        cascade: whether decode may read what siblings share once per step, where that pays. Such
            steps run without a CUDA graph; see :meth:`can_run_decode_cuda_graph`.

    Raises:
        ValueError: where the model or the server has what the plan cannot express, by name.
    """

    def __init__(self, model_runner: Any, *args: Any, cascade: bool = False, **kwargs: Any):
        super().__init__(model_runner, *args, **kwargs)
        refuse(unserved(self, model_runner))
        # Rows of one plain extend may read what other rows of it write, as at a fork or a join.
        self.use_paged = True
        self._cascade = self._cascade_wrapper() if cascade else None

    def _cascade_wrapper(self) -> CascadeDecodeWrapper:
        """Of the kernels that the parent decodes with: at a GQA ratio of 4 and more, those of
        prefill."""
        return CascadeDecodeWrapper(
            stock.BatchPrefillWithPagedKVCacheWrapper(
                self.workspace_buffer, "NHD", backend=self.prefill_backend
            ),
            stock.BatchDecodeWithPagedKVCacheWrapper(
                self.workspace_buffer,
                "NHD",
                backend=self.decode_backend,
                use_tensor_cores=self.decode_use_tensor_cores,
            ),
            stock._safe_merge_state,
        )

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Plan one eager forward: by segments where the batch has them.

        Raises:
            ValueError: where the extends are not those of the batch, or cannot be planned.
        """
        extends = extends_of(forward_batch)
        if extends is not None:
            self._plan_extend(extends, forward_batch)
        elif self._cascade is not None and self._cascades(forward_batch):
            self._plan_cascade(self._cascade, forward_batch)
        else:
            super().init_forward_metadata(forward_batch)

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        """Plan the replay of a CUDA graph, which has no room for structure.

        Raises:
            RuntimeError: where a structured extend comes here, past
                :meth:`can_run_prefill_cuda_graph`.
        """
        if extends_of(forward_batch) is not None:
            raise RuntimeError(
                "a structured extend was given to a captured CUDA graph, which would read it as "
                "plain text. SGLang's hybrid of two backends does not ask this one: pass "
                "--attention-backend multiverse for prefill and decode alike"
            )
        super().init_forward_metadata_out_graph(forward_batch, in_capture)

    def can_run_prefill_cuda_graph(self, forward_batch: Any) -> bool:
        """False for structured extends: a captured graph plans one row per request, and would drop
        the structure without a word. Asked by SGLang's prefill graph runner."""
        return extends_of(forward_batch) is None

    def can_run_decode_cuda_graph(self, forward_batch: Any) -> bool:
        """False for the decode steps that read a shared prefix once: the number of groups is not
        fixed, and a captured graph's is. SGLang's decode graph runner does not ask; a hook must."""
        return self._cascade is None or not self._cascades(forward_batch)

    def _cascades(self, forward_batch: Any) -> bool:
        siblings = siblings_of(forward_batch)
        if siblings is None:
            return False
        each = Sizes.of(self.indices_updater_decode).bytes_per_token
        return cascade_pays(siblings.groups, siblings.shared, each)

    def _plan_extend(self, extends: Sequence[Extend], forward_batch: Any) -> None:
        if not forward_batch.forward_mode.is_extend_without_speculative():
            raise ValueError(
                f"a structured extend in forward mode {forward_batch.forward_mode.name}: the "
                "multiverse attention backend does not serve speculative decoding"
            )
        check_rows(extends, forward_batch)
        made = plan(extends)
        # Rows are runs here, so the parent's buffers, sized to requests, do not serve.
        indices = kv_indices(self.kv_index_translator, forward_batch, made.ranges)
        wrapper = self.prefill_wrappers_paged[0]
        plan_runs(wrapper, made, indices, Sizes.of(self.indices_updater_prefill))
        self.forward_metadata = PrefillMetadata([wrapper], use_ragged=False, extend_no_prefix=False)

    def _plan_cascade(self, wrapper: CascadeDecodeWrapper, forward_batch: Any) -> None:
        sizes = Sizes.of(self.indices_updater_decode)
        wrapper.plan(forward_batch, self.kv_index_translator, sizes)
        self.forward_metadata = DecodeMetadata([wrapper])


def unserved(backend: Any, model_runner: Any) -> list[str]:
    """What of the model and the server this backend has no plan for, each with its remedy."""
    parallel = get_parallel()
    without = "serve this model without the plugin"
    checks = (
        (
            backend.dispatch_reason is WrapperDispatch.SLIDING_WINDOW,
            f"sliding-window attention: {without}",
        ),
        (
            backend.dispatch_reason is WrapperDispatch.CROSS_ATTENTION,
            f"cross attention: {without}",
        ),
        (
            backend.prefill_kv_access is None
            or backend.decode_kv_access is None
            or backend.prefill_uses_dequant_workspace
            or backend.decode_uses_dequant_workspace
            or backend.is_nvfp4_kvcache,
            "a KV cache in FP4: pass --kv-cache-dtype auto",
        ),
        (
            not model_runner.spec_algorithm.is_none(),
            "speculative decoding: start without --speculative-algorithm",
        ),
        (
            parallel.attn_dcp_size > 1 or parallel.attn_cp_size > 1,
            "context parallelism: pass --dcp-size 1 and --attn-cp-size 1",
        ),
        (
            backend.page_size != 1,
            f"pages of {backend.page_size} tokens: pass --page-size 1",
        ),
        (
            backend.kv_index_translator.reads_are_translated,
            f"a KV pool with virtual page tables: {without}",
        ),
        (backend.enable_mis, "multi-item scoring: start without --enable-mis"),
        (backend.is_dllm_model, f"a diffusion model: {without}"),
        (
            backend.enable_deterministic,
            "deterministic inference: start without --enable-deterministic-inference",
        ),
    )
    return [what for found, what in checks if found]


def refuse(reasons: Sequence[str]) -> None:
    """Raise with every reason, if there is one."""
    if reasons:
        raise ValueError(
            "the multiverse attention backend does not serve "
            + "; nor ".join(reasons)
            + ". Or pass another --attention-backend, over which forks are served as rows"
        )


__all__ = ["MultiverseFlashInferBackend", "refuse", "unserved"]
