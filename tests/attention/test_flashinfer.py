"""The backend for CUDA on a CPU: SGLang's own backend class, pools, translator and index kernel.
The attention kernels alone are replaced, by what their plans mean."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sglang.kernels.ops.attention import kv_indices as kernels
from sglang.srt.layers.attention import flashinfer_backend as stock
from sglang.srt.mem_cache import kv_index_translator
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from triton.runtime.interpreter import InterpretedFunction

from sglang_multiverse.attention import flashinfer as ours
from sglang_multiverse.attention.batch import Siblings
from sglang_multiverse.attention.cascade_plan import ALONE, CASCADE_BYTES
from sglang_multiverse.attention.flashinfer import MultiverseFlashInferBackend
from sglang_multiverse.attention.plan import plan

from .dense import Batch, batch_of, batches, long_text, plain_row, structured
from .kernels import Decode, Prefill, Wrapper, merge
from .runner import Forward, forward_of


class Nothing:
    """Answers every question with False."""

    def __getattr__(self, name: str) -> bool:
        return False


@pytest.fixture(scope="module", autouse=True)
def replaced() -> Iterator[None]:
    """FlashInfer's wrappers by :mod:`kernels`; SGLang's settings as of a plain server."""
    gather = InterpretedFunction(kernels.create_flashinfer_kv_indices_triton.fn)
    parallel = SimpleNamespace(attn_tp_size=1, attn_dcp_size=1, attn_cp_size=1, dcp_enabled=False)
    running = SimpleNamespace(
        features=SimpleNamespace(enable_mis=False),
        deterministic=SimpleNamespace(enable_deterministic_inference=False),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("BatchPrefillWithPagedKVCacheWrapper", Prefill),
            ("BatchPrefillWithRaggedKVCacheWrapper", lambda *_, **__: None),
            ("BatchDecodeWithPagedKVCacheWrapper", Decode),
            ("fast_decode_plan", None),
            ("_safe_merge_state", merge),
            ("get_exec", lambda: running),
            ("get_parallel", lambda: parallel),
            ("get_platform", Nothing),
            ("get_buffer", lambda _, make: torch.empty(8, dtype=torch.uint8)),
            ("get_cuda_graph_max_batch_size", lambda size: size),
            ("DllmConfig", SimpleNamespace(from_server_args=lambda _: None)),
            ("is_in_tc_piecewise_cuda_graph", lambda: False),
        ):
            patch.setattr(stock, name, value, raising=False)
        patch.setattr(tl, "cdiv", InterpretedFunction(tl.cdiv.fn))
        patch.setattr(ours, "get_parallel", lambda: parallel)
        patch.setattr(kv_index_translator, "get_parallel", lambda: parallel)
        patch.setattr(kv_index_translator, "create_flashinfer_kv_indices_triton", gather)
        yield


def model_runner(forward: Forward) -> Any:
    """The fields of a ``ModelRunner`` that the backend reads."""
    runner, layer = forward.runner, forward.layer
    translator = kv_index_translator.KVIndexTranslator(
        req_to_token=runner.req_to_token_pool.req_to_token,
        token_to_kv_pool_allocator=SimpleNamespace(
            get_kvcache=lambda: runner.token_to_kv_pool, page_size=1
        ),
        token_to_kv_pool=runner.token_to_kv_pool,
        page_size=1,
        device="cpu",
    )
    config = SimpleNamespace(
        num_attention_heads=layer.tp_q_head_num,
        get_num_kv_heads=lambda *_: layer.tp_k_head_num,
        get_max_num_attention_heads=lambda: layer.tp_q_head_num,
        context_len=1000,
        head_dim=layer.head_dim,
        v_head_dim=layer.head_dim,
        is_multimodal=False,
        is_encoder_decoder=False,
        hf_config=SimpleNamespace(architectures=["LlamaForCausalLM"]),
    )
    return SimpleNamespace(
        **vars(runner),
        kv_index_translator=translator,
        token_to_kv_pool_allocator=SimpleNamespace(get_kvcache=lambda: runner.token_to_kv_pool),
        server_args=None,
        prefill_attention_backend_str="multiverse",
        decode_attention_backend_str="multiverse",
        kv_cache_dtype=runner.token_to_kv_pool.dtype,
        dtype=runner.token_to_kv_pool.dtype,
        model_config=config,
        page_size=1,
        sliding_window_size=None,
        is_draft_worker=False,
        spec_algorithm=SimpleNamespace(is_none=lambda: True),
    )


def build(forward: Forward, **options: Any) -> MultiverseFlashInferBackend:
    Wrapper.made.clear()
    return MultiverseFlashInferBackend(model_runner(forward), **options)


def extend(backend: MultiverseFlashInferBackend, forward: Forward) -> torch.Tensor:
    backend.init_forward_metadata(forward.forward_batch)
    return backend.forward_extend(
        forward.q, forward.k, forward.v, forward.layer, forward.forward_batch
    )


slow = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@slow
@given(batches())
def test_an_extend_gives_what_the_dense_mask_gives(batch: Batch) -> None:
    forward = forward_of(batch)
    backend = build(forward)
    forward.forward_batch.multiverse_extends = batch.extends
    got = extend(backend, forward).view(batch.q.shape)
    assert (got - batch.expected()).abs().max() <= 1e-12
    assert sum(wrapper.plans for wrapper in Wrapper.made) == 1


def test_bfloat16_rounds_and_no_more() -> None:
    rows = [structured(long_text(4), 17, 150), plain_row(3, 40)]
    batch = batch_of(rows, seed=1, heads=(40, 8), dtype=torch.bfloat16)
    forward = forward_of(batch)
    forward.forward_batch.multiverse_extends = batch.extends
    got = extend(build(forward), forward).view(batch.q.shape)
    assert (got.double() - batch.expected()).abs().max() <= 2e-2


def test_a_plan_is_one_row_per_run_over_the_pages_the_kernel_gathers() -> None:
    batch = batch_of([plain_row(5, 600), structured(long_text(3), 20, 180)], seed=2)
    forward = forward_of(batch)
    backend = build(forward)
    forward.forward_batch.multiverse_extends = batch.extends
    backend.init_forward_metadata(forward.forward_batch)
    (wrapper,) = backend.forward_metadata.prefill_wrappers
    assert not backend.forward_metadata.use_ragged
    made = plan(batch.extends)
    assert len(made) > 2
    assert wrapper.qo == made.qo_indptr.tolist()
    assert wrapper.kv == made.kv_indptr.tolist()
    slots = torch.cat([batch.tables[row][a:b] for row, a, b in made.ranges])
    assert torch.equal(wrapper.indices[: len(slots)].long(), slots)
    assert wrapper.planned["causal"]


def test_a_plain_batch_is_planned_by_the_parent_without_the_ragged_wrapper() -> None:
    """So that a row at a fork may read what its siblings write in the same forward."""
    batch = batch_of([plain_row(0, 30), plain_row(11, 12)], seed=2)
    forward = forward_of(batch)
    forward.forward_batch.multiverse_extends = batch.extends
    backend = build(forward)
    got = extend(backend, forward).view(batch.q.shape)
    assert (got - batch.expected()).abs().max() <= 1e-12
    assert not backend.forward_metadata.use_ragged
    assert backend.forward_metadata.prefill_wrappers[0].qo == [0, 30, 31]


def test_prefill_graphs_are_for_plain_batches() -> None:
    batch = batch_of([plain_row(0, 9), structured(long_text(3), 0, 50)], seed=2)
    forward = forward_of(batch)
    backend = build(forward)
    fb = forward.forward_batch
    assert backend.can_run_prefill_cuda_graph(fb)
    fb.multiverse_extends = batch.extends
    assert not backend.can_run_prefill_cuda_graph(fb)
    with pytest.raises(RuntimeError, match="given to a captured CUDA graph"):
        backend.init_forward_metadata_out_graph(fb)  # as under SGLang's hybrid, which does not ask
    fb.multiverse_extends = None
    assert backend.can_run_prefill_cuda_graph(fb)


def decode_batch(heads: tuple[int, int] = (5, 1), head: int = 30) -> tuple[Batch, Siblings]:
    """Two groups of siblings, one row alone between them, slots shared within a group."""
    lengths = [head + 4, 12, head + 1, 17, head + 9, 20]
    siblings = Siblings([4, 2, 4, ALONE, 4, 2], [head, 8, head, 0, head, 8])
    batch = batch_of([plain_row(n - 1, n) for n in lengths], seed=8, heads=heads)
    first: dict[int, torch.Tensor] = {}
    for row, (group, shared) in enumerate(zip(siblings.groups, siblings.shared, strict=True)):
        table = batch.tables[row]
        common = first.setdefault(group, table) if group != ALONE else table
        batch.tables[row] = torch.cat([common[:shared], table[shared:]])
    return batch, siblings


def decode(backend: MultiverseFlashInferBackend, forward: Forward) -> torch.Tensor:
    forward.forward_batch.forward_mode = ForwardMode.DECODE
    backend.init_forward_metadata(forward.forward_batch)
    return backend.forward_decode(
        forward.q, forward.k, forward.v, forward.layer, forward.forward_batch
    )


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cascades pay at any length."""
    monkeypatch.setattr(ours, "cascade_pays", lambda groups, *_: max(groups) != ALONE)


@pytest.mark.parametrize("heads", [(5, 1), (40, 8)])
def test_a_cascade_gives_what_one_softmax_gives(always: None, heads: tuple[int, int]) -> None:
    batch, siblings = decode_batch(heads)
    forward = forward_of(batch)
    forward.forward_batch.multiverse_siblings = siblings
    got = decode(build(forward, cascade=True), forward).view(batch.q.shape)
    assert (got - batch.expected()).abs().max() <= 1e-12
    (shared,) = [w for w in Wrapper.made if w.plans and isinstance(w, Prefill)]
    assert shared.qo == [0, 2, 5]  # one row per group; the row alone is not among them
    assert shared.kv == [0, 8, 38]
    assert not shared.planned["causal"]


def test_decode_is_the_parents_where_a_cascade_does_not_pay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch, siblings = decode_batch()
    forward = forward_of(batch)
    fb = forward.forward_batch
    fb.forward_mode = ForwardMode.DECODE
    asked: list[Any] = []
    monkeypatch.setattr(
        stock.FlashInferAttnBackend, "init_forward_metadata", lambda _, fb: asked.append(fb)
    )
    for options, named in (
        ({"cascade": True}, siblings),
        ({}, siblings),
        ({"cascade": True}, None),
    ):
        backend = build(forward, **options)
        fb.multiverse_siblings = named
        backend.init_forward_metadata(fb)
        assert asked.pop() is fb
        assert backend.can_run_decode_cuda_graph(fb)


def test_a_cascade_step_leaves_the_decode_graph() -> None:
    batch, _ = decode_batch()
    forward = forward_of(batch)
    forward.forward_batch.forward_mode = ForwardMode.DECODE
    backend = build(forward, cascade=True)
    updater = backend.indices_updater_decode
    each = 2 * updater.num_kv_heads * updater.head_dim * updater.data_type.itemsize
    enough = CASCADE_BYTES // (5 * each) + 1  # one of six siblings reads it, five are spared
    forward.forward_batch.multiverse_siblings = Siblings([0] * 6, [enough - 1] * 6)
    assert backend.can_run_decode_cuda_graph(forward.forward_batch)
    forward.forward_batch.multiverse_siblings = Siblings([0] * 6, [enough] * 6)
    assert not backend.can_run_decode_cuda_graph(forward.forward_batch)
    assert build(forward).can_run_decode_cuda_graph(forward.forward_batch)
    forward.forward_batch.forward_mode = ForwardMode.EXTEND
    assert build(forward, cascade=True).can_run_decode_cuda_graph(forward.forward_batch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sliding_window_size": 128}, "sliding-window attention"),
        ({"page_size": 16}, "pages of 16 tokens: pass --page-size 1"),
        ({"spec_algorithm": SimpleNamespace(is_none=lambda: False)}, "speculative decoding"),
    ],
)
def test_what_has_no_plan_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    forward = forward_of(batch_of([plain_row(0, 3)], seed=0))
    runner = model_runner(forward)
    vars(runner).update(changes)
    with pytest.raises(ValueError, match=words):
        MultiverseFlashInferBackend(runner)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("dispatch_reason", stock.WrapperDispatch.CROSS_ATTENTION, "cross attention"),
        ("prefill_kv_access", None, "a KV cache in FP4"),
        ("decode_uses_dequant_workspace", True, "a KV cache in FP4"),
        ("enable_mis", True, "multi-item scoring"),
        ("is_dllm_model", True, "a diffusion model"),
        ("enable_deterministic", True, "deterministic inference"),
        (
            "kv_index_translator",
            SimpleNamespace(reads_are_translated=True),
            "virtual page tables",
        ),
    ],
)
def test_what_only_the_parent_knows_is_refused_by_name(
    attribute: str, value: object, words: str
) -> None:
    forward = forward_of(batch_of([plain_row(0, 3)], seed=0))
    backend = build(forward)
    runner = model_runner(forward)
    assert ours.unserved(backend, runner) == []
    setattr(backend, attribute, value)
    (reason,) = ours.unserved(backend, runner)
    assert words in reason
    with pytest.raises(ValueError, match="does not serve"):
        ours.refuse([reason])


@pytest.mark.parametrize("field", ["attn_dcp_size", "attn_cp_size"])
def test_context_parallelism_is_refused(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = forward_of(batch_of([plain_row(0, 3)], seed=0))
    backend = build(forward)
    sizes = {"attn_dcp_size": 1, "attn_cp_size": 1} | {field: 2}
    monkeypatch.setattr(ours, "get_parallel", lambda: SimpleNamespace(**sizes))
    (reason,) = ours.unserved(backend, model_runner(forward))
    assert "context parallelism" in reason


def test_a_structured_extend_under_speculation_is_refused() -> None:
    batch = batch_of([structured(long_text(3), 0, 50)], seed=2)
    forward = forward_of(batch)
    backend = build(forward)
    forward.forward_batch.forward_mode = ForwardMode.TARGET_VERIFY
    forward.forward_batch.multiverse_extends = batch.extends
    with pytest.raises(ValueError, match="speculative decoding"):
        backend.init_forward_metadata(forward.forward_batch)


@slow
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700), st.integers(1, 1300)), min_size=1)
)
def test_the_index_kernel_gathers_ranges_of_any_length(ranges: list[tuple[int, int, int]]) -> None:
    """Its blocks have 512 tokens; ranges begin and end anywhere in them, in any row."""
    forward = forward_of(batch_of([plain_row(0, 3)], seed=0))
    runner = model_runner(forward)
    made = torch.Generator().manual_seed(len(ranges))
    table = torch.randint(0, 2**31 - 1, (9, 2100), generator=made, dtype=torch.int32)
    runner.kv_index_translator.req_to_token = table
    rows = torch.tensor([7, 1, 4, 2])
    fb = SimpleNamespace(req_pool_indices=rows, kv_loc_plan=None)
    asked = np.array([(row, start, start + length) for row, start, length in ranges], np.int32)
    got = ours.kv_indices(runner.kv_index_translator, fb, asked)
    expected = torch.cat([table[rows[row], a:b] for row, a, b in asked.tolist()])
    assert torch.equal(got[: len(expected)], expected)
