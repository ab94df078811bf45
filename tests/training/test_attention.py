"""The seam: whatever reaches the model's layers is the layout's mask, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from trl import GRPOConfig, GRPOTrainer

from sglang_multiverse.layout import Layout, layout, pack, plain
from sglang_multiverse.structure import Limits
from sglang_multiverse.tiny.factory.exam import encode
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.attention import (
    AttentionError,
    block_mask,
    dense_mask,
    enable_multiverse_attention,
)
from sglang_multiverse.training.collator import MultiverseCollator

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


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "multiverse"])
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
        ({"attn_implementation": "paged|sdpa"}, "flex_attention"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
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
    short = {**given, "multiverse_order": given["multiverse_order"][:, :2]}
    with pytest.raises(AttentionError, match=r"\(1, 2\), the text \(1, 3\)"):
        model(**short)


def test_adapters_that_put_tokens_before_the_text_are_refused(make_model):
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(AttentionError, match="PROMPT_TUNING"):
        enable_multiverse_attention(get_peft_model(make_model(), prompt))


def test_a_pickled_or_copied_model_keeps_its_hook(make_model):
    _, ids, laid = nested()[0]
    model = enable_multiverse_attention(make_model(), DIALECT)
    expected = model(**inputs(ids, laid)).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(**inputs(ids, laid)).logits, expected)
        assert torch.equal(other(torch.tensor([ids])).logits, expected)


def test_a_backbone_called_by_position_attends_by_order_too(make_model):
    _, ids, laid = nested()[0]
    model = enable_multiverse_attention(make_model())
    given = inputs(ids, laid)
    tokens, positions = given["input_ids"], given["position_ids"]
    expected = model.model(**given).last_hidden_state
    found = model.model(
        tokens, torch.ones_like(tokens), positions, multiverse_order=given["multiverse_order"]
    )
    assert torch.equal(found.last_hidden_state, expected)


# With a dialect, the hook lays out what no order comes with.


def padded(texts: list[list[int]], sides: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Rows padded to the longest, ``sides`` parts of it left and right."""
    longest = max(map(len, texts))
    ids, real = [], []
    for text_ids in texts:
        short = longest - len(text_ids)
        left = short * sides[0] // sum(sides)
        ids.append([0] * left + text_ids + [0] * (short - left))
        real.append([0] * left + [1] * len(text_ids) + [0] * (short - left))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(real)}


def captured(model: Any, **given: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, and the mask and positions that reached the first layer."""
    seen: list[dict[str, torch.Tensor]] = []
    hook = model.model.layers[0].register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        logits = model(**given).logits
    hook.remove()
    return logits, seen[0]["attention_mask"], seen[0]["position_ids"]


def test_a_derived_layout_is_the_collators(make_model):
    model = enable_multiverse_attention(make_model(), DIALECT)
    collator = MultiverseCollator(pad_token_id=0, dialect=DIALECT)
    texts = [ids for _, ids, _ in nested()]
    batch = collator([{"input_ids": ids, "labels": ids} for ids in texts])
    labels = batch.pop("labels")
    explicit, mask, positions = captured(model, **batch)
    for given in (
        {key: batch[key] for key in ("input_ids", "attention_mask")},
        {**padded(texts, (0, 1)), "use_cache": False, "labels": labels},
        # What a trainer makes of the padding alone gives way to the layout.
        {**padded(texts, (0, 1)), "position_ids": torch.arange(mask.shape[-1])[None]},
    ):
        derived, own_mask, own_positions = captured(model, **given)
        assert torch.equal(own_mask, mask)
        assert torch.equal(own_positions, positions)
        assert torch.equal(derived, explicit)
    (ids, *_), alone = texts, captured(model, **padded(texts[:1], (0, 1)))[0]
    torch.testing.assert_close(alone[0], explicit[0, : len(ids)], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sides", [(1, 0), (0, 1), (1, 2)])
def test_padding_on_either_side_changes_no_logits(make_model, sides):
    model = enable_multiverse_attention(make_model(initializer_range=0.1), DIALECT)
    texts = [ids for _, ids, _ in nested()] + [[WORD, WORD + 1]]
    batch = padded(texts, sides)
    found = model(**batch).logits
    for row, ids in enumerate(texts):
        alone = model(input_ids=torch.tensor([ids])).logits[0]
        kept = found[row][batch["attention_mask"][row].bool()]
        torch.testing.assert_close(kept, alone, atol=1e-6, rtol=0)


def test_grpos_policy_forward_has_the_logprobs_of_the_layout(
    tmp_path, make_model, tokenizer, dialect
):
    """Prompts padded on the left, completions on the right, and no room for an order."""
    problems = [next(generate(seed, "train", {"nested": 1.0})) for seed in (3, 4)]
    pairs = [encode(problem, "parallel", tokenizer) for problem in problems]
    pairs[0][1][-40:] = []
    model = make_model(vocab=len(tokenizer), initializer_range=0.1)
    trainer = GRPOTrainer(
        enable_multiverse_attention(model, dialect),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
        train_dataset=Dataset.from_list([{"prompt": "1+1"}]),
        processing_class=tokenizer,
    )
    left, right = (max(len(pair[side]) for pair in pairs) for side in (0, 1))
    rows, real = [], []
    for prompt, answer in pairs:
        before, after = left - len(prompt), right - len(answer)
        rows.append([0] * before + prompt + answer + [0] * after)
        real.append([0] * before + [1] * len(prompt + answer) + [0] * after)
    with torch.no_grad():
        found = trainer._get_per_token_logps_and_entropies(
            trainer.model, torch.tensor(rows), torch.tensor(real), right
        )[0]
    for row, (prompt, answer) in enumerate(pairs):
        ids = prompt + answer
        logits = model(**inputs(ids, layout(ids, dialect))).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(found[row, : len(answer)], expected, atol=1e-5, rtol=0)


def test_a_row_of_nothing_but_padding_does_no_harm(make_model):
    model = enable_multiverse_attention(make_model(), DIALECT)
    _, ids, _ = nested()[0]
    batch = padded([ids, ids], (1, 0))
    batch["attention_mask"][1] = 0
    assert model(**batch).logits.isfinite().all()


def test_deriving_leaves_calls_with_a_cache_alone(make_model):
    _, ids, laid = nested()[0]
    tokens = torch.tensor([ids])
    bare = make_model()
    model = enable_multiverse_attention(make_model(), DIALECT)
    ours, theirs = (
        one.generate(tokens, max_new_tokens=8, do_sample=False) for one in (model, bare)
    )
    assert torch.equal(ours, theirs)
    out = model(tokens, use_cache=True)
    assert torch.equal(out.logits, bare(tokens).logits)
    assert out.past_key_values.get_seq_length() == len(ids)
    derived = model(tokens)
    assert derived.past_key_values is None
    assert torch.equal(derived.logits, model(**inputs(ids, laid)).logits)


def test_enabling_again_keeps_the_dialect_unless_another_is_given(make_model):
    _, ids, laid = nested()[0]
    model = enable_multiverse_attention(make_model())
    expected = model(**inputs(ids, laid)).logits
    assert not torch.equal(model(torch.tensor([ids])).logits, expected)
    enable_multiverse_attention(enable_multiverse_attention(model, DIALECT))
    assert torch.equal(model(torch.tensor([ids])).logits, expected)
    assert len(model.model._forward_pre_hooks) == 1


def test_a_fork_that_the_engine_declined_is_text(make_model):
    made, ids, _ = nested()[0]
    assert max(depth for _, depth in made.blocks()) > 1
    shallow = Limits(max_depth=1)
    model = enable_multiverse_attention(make_model(), DIALECT, limits=shallow)
    _, mask, positions = captured(model, input_ids=torch.tensor([ids]))
    laid = layout(ids, DIALECT, limits=shallow)
    assert np.array_equal(mask[0, 0].numpy(), from_order(laid.order))
    assert positions[0].tolist() == laid.position.tolist()
    assert laid.critical_path > layout(ids, DIALECT).critical_path


def test_what_cannot_be_derived_is_refused(make_model):
    model = enable_multiverse_attention(make_model(), DIALECT)
    ids = torch.tensor([[WORD] * 6])
    holes = torch.tensor([[0, 1, 1, 0, 1, 0]])
    with pytest.raises(AttentionError, match="row 0 leaves out token 3"):
        model(ids, attention_mask=holes)
    with pytest.raises(AttentionError, match="2-D attention_mask"):
        model(ids, attention_mask=torch.ones(1, 1, 6, 6, dtype=torch.bool))
    with pytest.raises(AttentionError, match="inputs_embeds"):
        model(inputs_embeds=model.get_input_embeddings()(ids))


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


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("length", [128, 700, 1024])
def test_block_lists_name_the_blocks_that_hold_a_visible_pair(length, dtype):
    order = packed_orders(length).to(dtype)
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
