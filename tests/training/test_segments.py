"""Segment attention: each visible pair once, and attention exact forward and backward."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Qwen2Config,
    StableLmConfig,
)

from sglang_multiverse.layout import Layout, layout, pack, plain, segments
from sglang_multiverse.structure import parse
from sglang_multiverse.training.attention import (
    SEGMENTS,
    AttentionError,
    default_implementation,
    enable_multiverse_attention,
)
from sglang_multiverse.training.masks import dense_mask
from sglang_multiverse.training.segments import (
    _SegmentAttention,
    plan,
    row_plan,
    segment_attention,
    spans,
)

from ..core.generate import DIALECT, make
from .architectures import ARCHITECTURES, packed_and_padded, tiny

shares = st.sampled_from([None, 1, 2, 5])


def laid_out(seed: int, share_every: int | None = None, **options: Any) -> Layout:
    made = make(seed, depth=3, canonical=seed % 2 == 0, **options)
    return layout(made.tokens(), DIALECT, share_every=share_every)


def forked(**options: Any) -> Layout:
    """Of a text whose blocks need several rectangles."""
    some = (laid_out(seed, **options) for seed in range(0, 500, 2))
    return next(one for one in some if len(row_plan(one.order).rectangles) > 3)


def rule(laid: Layout) -> np.ndarray:
    """``[q, k]``: the layout's definition, pair by pair."""
    order, rank = laid.order, laid.ranks
    return (rank[None, :] <= rank[:, None]) & (order[None, :] <= order[:, None])


def tensors(rows: list[Layout]) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(
        torch.from_numpy(np.stack([getattr(row, which) for row in rows])).to(torch.int32)
        for which in ("order", "ranks")
    )


# The plan.


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), shares)
def test_spans_are_the_layouts_segments(seed, share_every):
    made = make(seed, depth=3, canonical=seed % 2 == 0)
    laid = layout(made.tokens(), DIALECT, share_every=share_every)
    expected = segments(parse(made.tokens(), DIALECT), share_every=share_every)
    found = spans(laid.order, laid.rank)
    assert [tuple(one) for one in found] == [(s.start, s.end, s.prefix) for s in expected]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=3), st.integers(0, 9), shares)
def test_every_visible_pair_is_computed_once_and_no_other(seeds, padding, share_every):
    laid = pack([*(laid_out(seed, share_every) for seed in seeds), plain(padding)])
    row = row_plan(laid.order, laid.rank)
    computed = np.zeros((len(laid), len(laid)), dtype=int)
    for start, end in row.runs:
        computed[start:end, start:end] += np.tri(end - start, dtype=int)
    for one in row.rectangles:
        computed[one.start : one.end, one.first : one.last] += 1
    assert np.array_equal(computed, rule(laid))
    assert row.pairs == computed.sum()


def test_a_plain_row_is_one_triangle_and_equal_rows_are_one_call():
    row = row_plan(plain(50).order)
    assert row.runs == ((0, 50),)
    assert row.rectangles == ()
    text = forked()
    flat = plain(len(text))
    order, _ = tensors([flat, flat, text])
    assert [(first, last) for first, last, _ in plan(order).groups] == [(0, 2), (2, 3)]
    assert spans(np.zeros(0, dtype=np.int64)) == []


def test_siblings_share_the_rectangle_over_what_stands_before_them():
    """As many pieces as spans, not one more for each level of nesting around them."""
    for seed in range(0, 60, 2):
        laid = laid_out(seed)
        row = row_plan(laid.order)
        prefixes = sum(len(span.prefix) for span in spans(laid.order))
        assert len(row.rectangles) <= min(prefixes, 2 * len(row.runs))


# Attention.


def inputs(
    batch: int, length: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query of 4 heads, key and value of 2, as a model's projections lie in memory."""
    torch.manual_seed(length)
    return tuple(
        torch.randn(batch, length, heads, 16, dtype=dtype).transpose(1, 2).requires_grad_()
        for heads in (4, 2, 2)
    )


def outcome(out: torch.Tensor, at: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """``out`` and the gradients of a loss that weights every element differently."""
    weights = torch.linspace(-1, 2, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad((out.float() * weights).sum(), at)]


@pytest.mark.parametrize("share_every", [None, 2])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_output_and_gradients_are_those_under_the_dense_mask(share_every, scale):
    for seed in range(0, 40, 4):
        one, two, three = (laid_out(seed + i, share_every) for i in range(3))
        length = max(len(one) + len(two), len(three)) + 3
        rows = [
            pack([one, two, plain(length - len(one) - len(two))]),
            pack([three, plain(length - len(three))]),
        ]
        order, rank = tensors(rows)
        given = inputs(2, length)
        mask = dense_mask(order, rank)
        expected = outcome(
            scaled_dot_product_attention(*given, attn_mask=mask, scale=scale, enable_gqa=True),
            given,
        )
        ranks = rank if share_every else None
        found = outcome(segment_attention(*given, plan(order, ranks), scale), given)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


def test_bfloat16_is_as_near_to_float32_as_the_dense_masks_is():
    laid = forked(words=40)
    order, _ = tensors([laid])
    exact = [one.detach().requires_grad_() for one in inputs(1, len(laid))]
    mask = dense_mask(order)
    wanted = outcome(scaled_dot_product_attention(*exact, attn_mask=mask, enable_gqa=True), exact)
    rounded = [one.detach().to(torch.bfloat16).requires_grad_() for one in exact]
    dense = outcome(
        scaled_dot_product_attention(*rounded, attn_mask=mask, enable_gqa=True), rounded
    )
    found = outcome(segment_attention(*rounded, plan(order)), rounded)
    for mine, theirs, truth in zip(found, dense, wanted, strict=True):
        assert mine.dtype == torch.bfloat16
        allowed = 1.5 * (theirs.float() - truth).abs().max()
        assert (mine.float() - truth).abs().max() <= allowed


def test_a_plain_text_has_causal_attentions_own_bits():
    given = inputs(3, 70)
    order, _ = tensors([plain(70)] * 3)
    causal = scaled_dot_product_attention(*given, is_causal=True, enable_gqa=True)
    for mine, theirs in zip(
        outcome(segment_attention(*given, plan(order)), given), outcome(causal, given), strict=True
    ):
        assert torch.equal(mine, theirs)


class Largest(TorchDispatchMode):
    """The most elements that any tensor made under it holds."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return out


def test_nothing_of_the_size_of_a_mask_is_made():
    parts = []
    while sum(map(len, parts)) < 1500:
        parts.append(laid_out(2 * len(parts), words=60))
    laid = pack(parts)
    order, _ = tensors([laid])
    given = inputs(1, len(laid))
    with Largest() as seen:
        segment_attention(*given, plan(order)).sum().backward()
    assert seen.elements <= max(one.numel() for one in given)
    assert seen.elements < len(laid) ** 2 / 10


def test_the_kernels_of_cuda_take_what_they_are_given():
    """Their operators' own shape rules, without a GPU; ``benchmarks/gpu`` runs them on one."""
    laid = forked(words=40)
    by = plan(tensors([laid])[0])
    kept = SimpleNamespace()
    kept.save_for_backward = lambda *saved: vars(kept).update(saved_tensors=saved)
    with FakeTensorMode():
        given = tuple(
            torch.empty(1, heads, len(laid), 16, device="cuda", dtype=torch.bfloat16)
            for heads in (4, 2, 2)
        )
        # Straight to the function: the autograd engine would ask for the device.
        out = _SegmentAttention.forward(kept, *given, by, None)
        grads = _SegmentAttention.backward(kept, torch.empty_like(out))
    assert [(one.shape, one.dtype) for one in (out, *grads[:3])] == [
        (one.shape, torch.bfloat16) for one in (given[0], *given)
    ]


def test_float32_on_cuda_is_refused_with_the_remedy():
    by = plan(tensors([plain(4)])[0])
    with FakeTensorMode():
        one = torch.empty(1, 2, 4, 16, device="cuda")
        with pytest.raises(NotImplementedError, match="bf16=True"):
            segment_attention(one, one, one, by)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("size", [1, 3, 64, 256])
def test_any_head_size_and_floats_of_any_width(dtype, size):
    laid = forked()
    order, _ = tensors([laid])
    torch.manual_seed(size)
    query, key, value = (
        torch.randn(1, heads, len(laid), size, dtype=dtype, requires_grad=frozen)
        for heads, frozen in ((6, True), (3, False), (3, True))
    )
    found = outcome(segment_attention(query, key, value, plan(order)), (query, value))
    dense = scaled_dot_product_attention(
        query, key, value, attn_mask=dense_mask(order), enable_gqa=True
    )
    bound = {torch.float64: 1e-4, torch.float16: 2e-2}[dtype]
    for mine, theirs in zip(found, outcome(dense, (query, value)), strict=True):
        assert mine.dtype == dtype
        assert (mine - theirs).abs().max() <= bound * max(1, theirs.abs().max())


def test_values_of_another_size_than_queries_are_refused_with_the_remedy():
    query, key, value = (torch.randn(1, 2, 4, size) for size in (8, 8, 6))
    with pytest.raises(NotImplementedError, match=r"\(6\).*\(8\).*'sdpa'"):
        segment_attention(query, key, value, plan(tensors([plain(4)])[0]))


# In a model.


def test_it_is_the_default_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_implementation() == SEGMENTS
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_implementation() == "flex_attention"


def test_models_that_choose_their_attention_themselves_get_sdpa(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    for config, expected in ((FalconConfig(**shape), "sdpa"), (Qwen2Config(**shape), SEGMENTS)):
        config.save_pretrained(tmp_path / config.model_type)
        assert default_implementation(str(tmp_path / config.model_type)) == expected
    assert default_implementation(str(tmp_path / "nothing")) == SEGMENTS
    stable = AutoModelForCausalLM.from_config(StableLmConfig(**shape), attn_implementation="sdpa")
    stable.config._attn_implementation_internal = SEGMENTS
    with pytest.raises(AttentionError, match="'sdpa'"):
        enable_multiverse_attention(stable)


@pytest.mark.parametrize("implementation", [SEGMENTS, "sdpa", "eager"])
def test_a_cap_on_scores_is_not_left_out_in_silence(implementation):
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    if implementation == "eager":
        enable_multiverse_attention(model)
        return
    with pytest.raises(AttentionError, match=r"attn_logit_softcapping.*'eager'"):
        enable_multiverse_attention(model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_attends_by_the_plan_and_no_mask_is_built(name, monkeypatch):
    rows = packed_and_padded()
    seen: list[Any] = []

    def spy(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, by: Any, scale: Any):
        seen.append(by)
        return segment_attention(query, key, value, by, scale)

    monkeypatch.setattr("sglang_multiverse.training.attention.segment_attention", spy)
    monkeypatch.setattr("sglang_multiverse.training.attention.dense_mask", None)
    model = enable_multiverse_attention(tiny(name, SEGMENTS))
    with torch.no_grad():
        model(**rows.given)
    assert len(seen) == 2
    assert seen[0] is seen[1]
    assert seen[0] == plan(rows.given["multiverse_order"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_under_autocast_it_is_as_near_to_float32_as_sdpa_is(name):
    rows = packed_and_padded()
    real = torch.from_numpy(rows.real)

    def run(implementation: str, *, rounded: bool) -> list[torch.Tensor]:
        model = enable_multiverse_attention(tiny(name, implementation, initializer_range=0.05))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
            out = model(**rows.given, use_cache=False).logits[real]
        out.float().square().mean().backward()
        return [out.detach().float(), model.model.layers[0].self_attn.q_proj.weight.grad]

    exact = run("sdpa", rounded=False)
    for mine, theirs, truth in zip(
        run(SEGMENTS, rounded=True), run("sdpa", rounded=True), exact, strict=True
    ):
        assert (mine - truth).norm() <= 1.5 * (theirs - truth).norm()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_order_the_model_is_sdpas(name):
    ids = torch.randint(1, 60, (2, 30), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids)
    real[0, :7] = 0
    ours, theirs = (tiny(name, implementation) for implementation in (SEGMENTS, "sdpa"))
    enable_multiverse_attention(ours)
    kept = {"input_ids": ids, "attention_mask": real}
    with torch.no_grad():
        assert torch.equal(ours(**kept).logits[real.bool()], theirs(**kept).logits[real.bool()])
    written = [one.generate(**kept, max_new_tokens=6, do_sample=False) for one in (ours, theirs)]
    assert torch.equal(*written)


def test_a_model_of_flash_attention_is_put_on_segments(make_model, caplog):
    model = make_model()
    model.config._attn_implementation_internal = "flash_attention_2"
    assert enable_multiverse_attention(model) is model
    assert model.config._attn_implementation == SEGMENTS
    rows = packed_and_padded()
    with torch.no_grad():
        found = model(**rows.given).logits
        expected = make_model()(**rows.by_brute_force()).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share_every", [None, 3])
def test_no_gradient_leaves_what_is_visible(make_model, share_every):
    rows = packed_and_padded(0, share_every)
    model = enable_multiverse_attention(make_model(attn_implementation=SEGMENTS))
    given = {**rows.given}
    embedded = model.get_input_embeddings()(given.pop("input_ids")).detach().requires_grad_()
    out = model(inputs_embeds=embedded, **given).logits
    for row in range(len(rows.seen)):
        for t in range(0, rows.seen.shape[-1], 11):
            (moved,) = torch.autograd.grad(out[row, t].sum(), embedded, retain_graph=True)
            reached = (moved.abs().sum(-1) > 0).numpy()
            assert np.array_equal(reached[row], rows.seen[row, t])
            assert not reached[np.arange(len(rows.seen)) != row].any()


def test_dropout_of_attention_weights_is_refused_in_training_alone(make_model):
    model = enable_multiverse_attention(
        make_model(attn_implementation=SEGMENTS, attention_dropout=0.1)
    )
    rows = packed_and_padded()
    assert math.isfinite(model(**rows.given).logits.sum().item())
    with pytest.raises(AttentionError, match=r"attention_dropout is 0\.1"):
        model.train()(**rows.given)


def test_a_model_that_keeps_the_plan_from_its_layers_is_refused(make_model):
    model = enable_multiverse_attention(make_model(attn_implementation=SEGMENTS))
    for layer in model.model.layers:

        def forgetful(*args: Any, inner: Any = layer.self_attn.forward, **kwargs: Any) -> Any:
            kwargs.pop("multiverse_plan")
            return inner(*args, **kwargs)

        layer.self_attn.forward = forgetful
    with pytest.raises(AttentionError, match="does not hand on"):
        model(**packed_and_padded().given)


def test_scores_that_a_model_changes_are_refused(make_model):
    model = enable_multiverse_attention(make_model(attn_implementation=SEGMENTS))
    with pytest.raises(AttentionError, match="softcap"):
        model(**packed_and_padded().given, softcap=30.0)
