"""The seam: whatever reaches the model's layers is the layout's mask, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from sglang_multiverse.layout import Layout, layout, pack, plain
from sglang_multiverse.training.attention import (
    AttentionError,
    block_mask,
    dense_mask,
    enable_multiverse_attention,
)

from ..core.generate import DIALECT, WORD, Made, make
from ..core.oracle import from_order, visible


def text(seed: int, **options: Any) -> tuple[Made, list[int], Layout]:
    made = make(seed, depth=3, canonical=True, **options)
    return made, made.tokens(), layout(made.tokens(), DIALECT)


def nested(at_least: int = 40) -> list[tuple[Made, list[int], Layout]]:
    """A few texts that have nested blocks."""
    some = (text(seed) for seed in range(200))
    return [
        one for one in some if len(one[1]) >= at_least and any(d > 1 for _, d in one[0].blocks())
    ][:4]


def inputs(ids: list[int], laid: Layout) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.from_numpy(laid.position)[None],
        "multiverse_order": torch.from_numpy(laid.order)[None].to(torch.int32),
    }


def test_the_mask_inside_the_model_is_brute_force_visibility(make_model):
    model = enable_multiverse_attention(make_model())
    seen: list[torch.Tensor] = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    for made, ids, laid in nested():
        for two_d in (None, torch.ones(1, len(ids), dtype=torch.long)):
            model(**inputs(ids, laid), attention_mask=two_d)
            expected = visible([address for _, address in made.walk(())])
            mask = seen.pop()
            assert mask.dtype is torch.bool
            assert np.array_equal(mask[0, 0].numpy(), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_changed_token_reaches_those_that_see_it_and_no_other(make_model, implementation):
    model = enable_multiverse_attention(make_model(attn_implementation=implementation))
    for _, ids, laid in nested():
        before = model(**inputs(ids, laid)).logits[0]
        mask = from_order(laid.order)
        words = [t for t, token in enumerate(ids) if token >= WORD]
        for t in words[:: max(1, len(words) // 6)]:
            changed = list(ids)
            changed[t] = WORD + 6
            after = model(**inputs(changed, laid)).logits[0]
            same = (before == after).all(-1).numpy()
            assert same[~mask[:, t]].all()
            assert not same[mask[:, t]].any()


def test_a_path_alone_has_the_logits_it_has_beside_its_siblings(make_model):
    model = enable_multiverse_attention(make_model())
    for _, ids, laid in nested():
        packed = model(**inputs(ids, laid)).logits[0]
        mask = from_order(laid.order)
        chains = 0
        for t in range(len(ids)):
            sees = np.flatnonzero(mask[t])
            if len(sees) != laid.position[t] + 1:
                continue  # a finished block stands before it
            chains += 1
            alone = model(input_ids=torch.tensor([ids])[:, sees]).logits[0, -1]
            torch.testing.assert_close(alone, packed[t], atol=1e-5, rtol=1e-5)
        assert chains > 20


def test_without_order_the_model_is_as_before(make_model):
    ids = torch.randint(1, 60, (2, 30))
    expected = make_model()(input_ids=ids).logits
    model = enable_multiverse_attention(make_model())
    assert torch.equal(model(input_ids=ids).logits, expected)
    generated = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert generated.shape == (2, 34)


def test_enabling_twice_adds_one_hook(make_model):
    model = make_model()
    assert enable_multiverse_attention(enable_multiverse_attention(model)) is model
    assert len(model.model._forward_pre_hooks) == 1


def test_a_wrapped_model_attends_by_order_too(make_model):
    _, ids, laid = nested()[0]
    expected = enable_multiverse_attention(make_model())(**inputs(ids, laid)).logits
    wrapped = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"], r=2))
    enable_multiverse_attention(wrapped)
    torch.testing.assert_close(wrapped(**inputs(ids, laid)).logits, expected)


def test_gradients_stay_within_what_is_visible(make_model):
    model = enable_multiverse_attention(make_model())
    _, ids, laid = nested()[0]
    rest = inputs(ids, laid)
    embedded = model.get_input_embeddings()(rest.pop("input_ids")).detach().requires_grad_()
    mask = from_order(laid.order)
    t = max(range(len(ids)), key=lambda i: i - mask[i].sum())
    model(inputs_embeds=embedded, **rest).logits[0, t].sum().backward()
    moved = embedded.grad[0].abs().sum(-1) > 0
    assert np.array_equal(moved.numpy(), mask[t])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_implementation": "flash_attention_2"}, "flex_attention"),
        (
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "sliding_attention",
        ),
        ({"multiverse": {"layout": 99}}, "layout 99"),
    ],
)
def test_what_cannot_attend_by_order_is_refused(make_model, changes, message):
    model = make_model(**{k: v for k, v in changes.items() if k != "attn_implementation"})
    model.config._attn_implementation_internal = changes.get("attn_implementation", "sdpa")
    with pytest.raises(AttentionError, match=message):
        enable_multiverse_attention(model)


def test_order_without_positions_or_over_a_cache_is_refused(make_model):
    model = enable_multiverse_attention(make_model())
    given = inputs([1, 2, 3], plain(3))
    with pytest.raises(AttentionError, match="position_ids"):
        model(input_ids=given["input_ids"], multiverse_order=given["multiverse_order"])
    cache = model(input_ids=given["input_ids"], use_cache=True).past_key_values
    with pytest.raises(AttentionError, match="past_key_values"):
        model(**given, past_key_values=cache)


def packed_orders(length: int) -> torch.Tensor:
    """Two rows of packed texts with blocks, ``(2, length)`` int32."""
    rows = []
    for seed in (0, 300):
        parts: list[Layout] = []
        while (left := length - sum(map(len, parts))) > 0:
            seed += 1
            one = text(seed, words=30)[2]
            parts.append(one if len(one) <= left else plain(left))
        rows.append(torch.from_numpy(pack(parts).order))
    return torch.stack(rows).to(torch.int32)


@pytest.mark.parametrize("length", [128, 700, 1024])
def test_block_lists_name_the_blocks_that_hold_a_visible_pair(length):
    order = packed_orders(length)
    rule = dense_mask(order)
    ours = block_mask(order)

    def visible_pair(b, _h, q, k):
        return rule[b, 0, q, k]

    theirs = create_block_mask(visible_pair, 2, None, length, length, device="cpu")
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    index = torch.arange(length)
    pairs = ours.mask_mod(torch.arange(2)[:, None, None], None, index[:, None], index[None, :])
    assert torch.equal(pairs, rule[:, 0])


def test_flex_attention_over_the_block_lists_equals_the_dense_rule():
    torch.manual_seed(0)
    order = packed_orders(384)
    q, k, v = torch.randn(3, 2, 2, 384, 16).unbind()
    flexible = flex_attention(q, k, v, block_mask=block_mask(order))
    dense = scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(order))
    torch.testing.assert_close(flexible, dense, atol=1e-5, rtol=1e-5)
