"""The backend for a CPU over SGLang's own pools, against the dense mask and against stock."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sglang_multiverse.attention.plan import Extend, plan
from sglang_multiverse.attention.torch_native import (
    MultiverseTorchBackend,
    causal_run,
    runs_by_row,
    writes_between,
)

from .dense import (
    HEADS,
    Batch,
    attend,
    batch_of,
    batches,
    causal_of_run,
    long_text,
    plain_row,
    structured,
)
from .runner import Forward, forward_of


def answer(forward: Forward, extends: list[Extend] | None) -> torch.Tensor:
    backend = MultiverseTorchBackend(forward.runner)
    forward.forward_batch.multiverse_extends = extends
    return run(backend, forward)


def run(backend: TorchNativeAttnBackend, forward: Forward) -> torch.Tensor:
    backend.init_forward_metadata(forward.forward_batch)
    return backend.forward_extend(
        forward.q, forward.k, forward.v, forward.layer, forward.forward_batch
    )


@settings(max_examples=60, deadline=None)
@given(batches())
def test_an_extend_gives_what_the_dense_mask_gives(batch: Batch) -> None:
    got = answer(forward_of(batch), batch.extends).view(batch.q.shape)
    assert (got - batch.expected()).abs().max() <= 1e-12


@settings(max_examples=20, deadline=None)
@given(batches(dtype=torch.bfloat16))
def test_bfloat16_rounds_and_no_more(batch: Batch) -> None:
    """An answer is a mean of values of about 1, rounded to 8 bits."""
    got = answer(forward_of(batch), batch.extends).view(batch.q.shape)
    assert (got.double() - batch.expected()).abs().max() <= 3e-2


@pytest.mark.parametrize("heads", [(5, 1), (40, 8)])
def test_chunks_of_a_long_text_by_way_of_the_pool(heads: tuple[int, int]) -> None:
    """Each chunk reads from the pool what the chunks before it wrote there."""
    made = long_text(11)
    n = len(made.tokens())
    whole = batch_of([structured(made, 0, n)], seed=n, heads=heads)
    expected = whole.expected()
    first = forward_of(whole)
    cuts = [0, 3, n // 2, n // 2 + 1, n - 5, n]
    for start, end in itertools.pairwise(cuts):
        row = structured(made, start, end)
        chunk = replace(whole, rows=[row], tables=[whole.tables[0][:end]], q=whole.q[start:end])
        forward = forward_of(chunk)
        forward.runner.token_to_kv_pool = first.runner.token_to_kv_pool
        got = answer(forward, chunk.extends).view(chunk.q.shape)
        assert (got - expected[start:end]).abs().max() <= 1e-12, f"chunk [{start}, {end})"


@pytest.mark.parametrize("named", [True, False])
def test_a_plain_batch_is_stock_to_the_bit(named: bool) -> None:
    rows = [plain_row(0, 9), plain_row(4, 30), plain_row(11, 12)]
    batch = batch_of(rows, seed=3, dtype=torch.float32)
    stock = forward_of(batch)
    ours = forward_of(batch)
    expected = run(TorchNativeAttnBackend(stock.runner), stock)
    if named:
        assert torch.equal(answer(ours, batch.extends), expected)
    else:
        assert torch.equal(run(MultiverseTorchBackend(ours.runner), ours), expected)


def test_decode_is_stock_to_the_bit() -> None:
    batch = batch_of([plain_row(8, 9), plain_row(29, 30)], seed=4, dtype=torch.float32)
    results = []
    for backend in (TorchNativeAttnBackend, MultiverseTorchBackend):
        forward = forward_of(batch)
        forward.forward_batch.forward_mode = ForwardMode.DECODE
        made = backend(forward.runner)
        made.init_forward_metadata(forward.forward_batch)
        results.append(
            made.forward_decode(
                forward.q, forward.k, forward.v, forward.layer, forward.forward_batch
            )
        )
    assert torch.equal(*results)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(0, 60), st.sampled_from(HEADS), st.integers(0, 2**31 - 1))
def test_a_run_is_causal_at_its_end(
    count: int, before: int, heads: tuple[int, int], seed: int
) -> None:
    made = torch.Generator().manual_seed(seed)
    q = torch.randn(heads[0], count, 8, generator=made, dtype=torch.float64)
    k, v = (
        torch.randn(heads[1], before + count, 8, generator=made, dtype=torch.float64)
        for _ in range(2)
    )
    got = causal_run(q, k, v, scale=0.3, grouped=heads[0] != heads[1])
    seen = causal_of_run(count, before + count)
    expected = attend(*(x.movedim(0, 1) for x in (q, k, v)), seen, 0.3)
    assert (got.movedim(0, 1) - expected).abs().max() <= 1e-12


spans = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda x: (x[0], x[0] + x[1])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(spans, min_size=1, max_size=5))
def test_a_buffer_holds_what_each_run_wants_after_its_writes(wanted: list[list[tuple]]) -> None:
    buffer = list(range(200))
    held = [(0, 200)]
    for ranges in wanted:
        for at, start, end in writes_between(held, ranges):
            buffer[at : at + end - start] = range(start, end)
        expected = [token for start, end in ranges for token in range(start, end)]
        assert buffer[: len(expected)] == expected
        held = ranges


def test_a_text_is_written_once_and_its_paths_once_more() -> None:
    """Runs of many blocks copy in all about as many tokens as stand inside blocks."""
    made = long_text(2, at_least=300)
    n = len(made.tokens())
    (runs,) = runs_by_row(plan([structured(made, 0, n).extend]), [n]).values()
    written = sum(end - start for run in runs for _, start, end in run.writes)
    assert len(runs) > 4
    assert written <= 3 * n < sum(run.length for run in runs)


def structured_forward() -> tuple[Forward, list[Extend]]:
    made = long_text(2, at_least=60)
    batch = batch_of([structured(made, 0, 60), plain_row(2, 5)], seed=1)
    return forward_of(batch), batch.extends


def test_rows_that_are_not_those_of_the_batch_are_refused() -> None:
    forward, extends = structured_forward()
    with pytest.raises(ValueError, match="1 structured extends for 2 rows"):
        answer(forward, extends[:1])
    with pytest.raises(ValueError, match=r"row 0 extends tokens \[0, 60\)"):
        answer(forward, [replace(extends[0], prefix_len=1), extends[1]])


def test_a_plan_of_another_forward_is_not_used() -> None:
    forward, extends = structured_forward()
    backend = MultiverseTorchBackend(forward.runner)
    forward.forward_batch.multiverse_extends = extends
    backend.init_forward_metadata(forward.forward_batch)
    forward.forward_batch.multiverse_extends = list(extends)
    with pytest.raises(RuntimeError, match="plan of another forward"):
        backend.forward_extend(
            forward.q, forward.k, forward.v, forward.layer, forward.forward_batch
        )


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("sliding_window_size", 128, "a sliding window"),
        ("is_cross_attention", True, "cross attention"),
        ("v_head_dim", 4, "values of another width than keys"),
        ("attn_type", AttentionType.ENCODER_ONLY, "attention of an encoder"),
    ],
)
def test_layers_without_meaning_for_segments_are_refused(
    attribute: str, value: object, words: str
) -> None:
    forward, extends = structured_forward()
    setattr(forward.layer, attribute, value)
    with pytest.raises(ValueError, match=words):
        answer(forward, extends)
