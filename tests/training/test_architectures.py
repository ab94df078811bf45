"""The seam on every supported architecture, through the model entry that training uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedModel
from transformers.integrations import flex_attention as flex_integration
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from trl.trainer.utils import add_fused_lm_head

from sglang_multiverse.training.attention import AttentionError, enable_multiverse_attention

from ..core.generate import WORD
from .architectures import (
    ARCHITECTURES,
    Batch,
    batch,
    nested_text,
    packed_and_padded,
    tiny,
)

SEEDS = (0, 1, 2)


@pytest.fixture(params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """FlexAttention as plain operations: compiling it for a CPU takes half a minute a model."""
    with torch.compiler.set_stance("force_eager"):
        yield


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def logits(model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def gradients(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of a loss over every token, so that every visible pair counts; and the logits."""
    model.zero_grad()
    found = model(**inputs).logits
    found.log_softmax(-1)[..., WORD].mean().backward()
    weights = {key: weight.grad.clone() for key, weight in model.named_parameters()}
    return {**weights, "logits": found.detach()}


@pytest.mark.parametrize("implementation", ["sdpa", "multiverse"])
@pytest.mark.parametrize("seed", SEEDS)
def test_logits_equal_a_brute_force_mask_on_a_model_without_the_hook(name, seed, implementation):
    rows = packed_and_padded(seed)
    expected = logits(tiny(name), rows.by_brute_force())
    model = enable_multiverse_attention(tiny(name, implementation))
    close(logits(model, rows.given), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "multiverse"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_of_tokens_has_the_logits_it_has_as_a_plain_text(name, seed, implementation):
    rows = packed_and_padded(seed)
    plain_model = tiny(name)
    found = logits(enable_multiverse_attention(tiny(name, implementation)), rows.given)
    compared = 0
    for row in range(len(rows.seen)):
        ids, seen = rows.given["input_ids"][row], rows.seen[row]
        chains = seen.sum(-1) == rows.heights[row] + 1
        tips = [t for t in np.flatnonzero(chains) if not seen[t + 1 :, t][chains[t + 1 :]].any()]
        for t in tips:
            sees = torch.from_numpy(np.flatnonzero(seen[t]))
            alone = logits(plain_model, {"input_ids": ids[None, sees]})[0]
            close(found[row, sees], alone)
            compared += len(sees)
    assert compared > 100


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "multiverse"])
def test_a_changed_token_changes_what_sees_it_and_not_one_bit_elsewhere(name, implementation):
    rows = packed_and_padded(3)
    model = enable_multiverse_attention(tiny(name, implementation))
    before = logits(model, rows.given)
    words = np.argwhere((rows.given["input_ids"] >= WORD).numpy())
    for row, t in words[:: max(1, len(words) // 8)]:
        ids = rows.given["input_ids"].clone()
        ids[row, t] = WORD + 6
        same = (logits(model, {**rows.given, "input_ids": ids}) == before).all(-1).numpy()
        sees = np.zeros_like(same)
        sees[row] = rows.seen[row, :, t]
        assert same[~sees].all()
        assert not same[sees].any()


@pytest.mark.parametrize("implementation", ["sdpa", "multiverse"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(name, implementation, reentrant):
    rows = packed_and_padded()
    found = []
    for checkpointing in (False, True):
        model = enable_multiverse_attention(tiny(name, implementation)).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            if reentrant:
                model.enable_input_require_grads()
        found.append(gradients(model, {**rows.given, "use_cache": False}))
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key]), key


def test_segments_have_the_gradients_of_the_dense_mask(name):
    rows = packed_and_padded()
    given = {**rows.given, "use_cache": False}
    dense, found = (
        gradients(enable_multiverse_attention(tiny(name, implementation)), given)
        for implementation in ("sdpa", "multiverse")
    )
    real = torch.from_numpy(rows.real)
    close(found.pop("logits")[real], dense.pop("logits")[real])
    for key, gradient in found.items():
        scale = dense[key].abs().max().clamp(min=1)
        close(gradient / scale, dense[key] / scale)


@pytest.mark.filterwarnings("ignore:.*grouped_mm_fallback")
@pytest.mark.parametrize("implementation", ["sdpa", "multiverse"])
def test_a_compiled_model_has_the_same_logits_and_gradients(name, implementation):
    rows = packed_and_padded()
    inputs = {**rows.given, "use_cache": False}
    model = enable_multiverse_attention(tiny(name, implementation))
    expected = gradients(model, inputs)
    torch._dynamo.reset()
    model.compile(backend="aot_eager")
    for key, value in gradients(model, inputs).items():
        close(value, expected[key])


def test_merged_lora_weights_attend_by_order(name):
    rows = packed_and_padded()
    torch.manual_seed(1)
    wrapped = get_peft_model(
        tiny(name), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    enable_multiverse_attention(wrapped)
    before = logits(wrapped, rows.given)
    merged = wrapped.merge_and_unload()
    assert len(merged.base_model._forward_pre_hooks) == 1
    assert not torch.allclose(before, logits(enable_multiverse_attention(tiny(name)), rows.given))
    close(logits(merged, rows.given), before)
    bare = tiny(name)
    bare.load_state_dict(merged.state_dict())
    close(before, logits(bare, rows.by_brute_force()))


def test_every_attention_implementation_has_the_same_logits(name, uncompiled):
    rows = packed_and_padded()
    sdpa, eager, flex = (
        logits(enable_multiverse_attention(tiny(name, implementation)), rows.given)
        for implementation in ("sdpa", "eager", "flex_attention")
    )
    close(eager, sdpa)
    close(flex, sdpa)


def attended(
    model: PreTrainedModel, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Any, bool]]:
    """What SDPA itself is called with, layer by layer: the mask, and whether it is causal."""
    seen: list[tuple[Any, bool]] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((kwargs["attn_mask"], kwargs["is_causal"]))
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        logits(model, inputs)
    return seen


@pytest.mark.parametrize("two_d", ["none", "ones", "padding"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_every_layer_attends_to_brute_forces_pairs(name, two_d, use_cache, monkeypatch):
    """Positions that jump are no sign of packed documents, whatever mask stands beside them."""
    rows = packed_and_padded()
    real = rows.given["attention_mask"]
    mask = {"none": None, "ones": torch.ones_like(real), "padding": real}[two_d]
    model = enable_multiverse_attention(tiny(name))
    inputs = {**rows.given, "attention_mask": mask, "use_cache": use_cache}
    layers = attended(model, inputs, monkeypatch)
    assert len(layers) == 2
    for attention_mask, causal in layers:
        assert not causal
        assert np.array_equal(attention_mask[:, 0].numpy(), rows.seen)


def test_left_to_itself_transformers_cuts_texts_where_positions_jump(name, monkeypatch):
    """The guess that the hook guards against; should it go, the guard is one line less."""
    rows = packed_and_padded()
    bare = {key: rows.given[key] for key in ("input_ids", "position_ids")}
    for mask, _ in attended(tiny(name), {**bare, "use_cache": False}, monkeypatch):
        assert mask is not None
        assert not np.array_equal(mask[:, 0].numpy(), rows.seen)
        assert (rows.seen & ~mask[:, 0].numpy()).any()


def test_flex_attention_is_given_brute_forces_pairs(name, uncompiled, monkeypatch):
    rows = packed_and_padded()
    masks: list[Any] = []
    original = flex_integration.compile_friendly_flex_attention

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        masks.append(kwargs["block_mask"])
        return original(*args, **kwargs)

    monkeypatch.setattr(flex_integration, "compile_friendly_flex_attention", spy)
    model = enable_multiverse_attention(tiny(name, "flex_attention"))
    logits(model, {**rows.given, "attention_mask": None})
    index = torch.arange(rows.seen.shape[-1])
    assert len(masks) == 2
    for mask in masks:
        row = torch.arange(len(rows.seen))[:, None, None]
        pairs = mask.mask_mod(row, None, index[:, None], index[None, :])
        assert np.array_equal(pairs.numpy(), rows.seen)


# Windows: a sliding layer equals a full one as long as the text fits.

WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {},
    "gemma3": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3_moe": {"use_sliding_window": True},
}


def windowed(name: str, window: int) -> PreTrainedModel:
    return tiny(name, sliding_window=window, **WINDOWED[name])


@pytest.mark.parametrize("name", WINDOWED)
def test_a_text_as_long_as_the_window_has_the_windows_own_logits(name):
    ids = torch.randint(WORD, 64, (1, 40), generator=torch.Generator().manual_seed(0))
    plain_text = {
        "input_ids": ids,
        "position_ids": torch.arange(40)[None],
        "multiverse_order": torch.arange(40)[None],
    }
    for window, fits in ((40, True), (39, False)):
        native = logits(windowed(name, window), {"input_ids": ids})
        full = logits(windowed(name, 400), {"input_ids": ids})
        assert torch.equal(native, full) == fits
        model = enable_multiverse_attention(windowed(name, window))
        if fits:
            close(logits(model, plain_text), native)
            continue
        with pytest.raises(AttentionError, match=r"40 tokens.*window of 39"):
            logits(model, plain_text)


@pytest.mark.parametrize("name", WINDOWED)
def test_packed_texts_and_padding_may_pass_the_window_together(name):
    first, second, third = (nested_text(seed) for seed in (0, 101, 202))
    rows = batch([first, second], [third])
    longest = max(len(made.tokens()) for made in (first, second, third))
    assert rows.seen.shape[-1] > longest
    expected = logits(windowed(name, 400), rows.by_brute_force())
    model = enable_multiverse_attention(windowed(name, longest))
    close(logits(model, rows.given), expected)
    model = enable_multiverse_attention(windowed(name, longest - 1))
    with pytest.raises(AttentionError, match=rf"{longest} tokens.*window of {longest - 1}"):
        logits(model, rows.given)


def test_without_order_a_window_is_as_it_was():
    ids = torch.randint(WORD, 64, (1, 40))
    expected = logits(windowed("gemma3", 8), {"input_ids": ids})
    model = enable_multiverse_attention(windowed("gemma3", 8))
    assert torch.equal(logits(model, {"input_ids": ids}), expected)


def test_both_rotary_bases_turn_by_the_given_positions():
    model = enable_multiverse_attention(tiny("gemma3"))
    rows = packed_and_padded()
    turned: dict[str, torch.Tensor] = {}
    model.model.rotary_emb.register_forward_pre_hook(
        lambda _m, args: turned.update({args[2]: args[1]})
    )
    logits(model, rows.given)
    assert turned.keys() == {"sliding_attention", "full_attention"}
    for positions in turned.values():
        assert np.array_equal(positions.numpy(), rows.heights)
    theta = model.config.rope_parameters
    assert theta["sliding_attention"]["rope_theta"] != theta["full_attention"]["rope_theta"]


# Mixture of experts: what stands above the backbone still knows padding.


@pytest.fixture
def padded() -> Batch:
    return batch([nested_text(0, depth=3)], [nested_text(100)])


def test_the_router_loss_leaves_padding_out(padded):
    model = enable_multiverse_attention(tiny("qwen3_moe"))
    out = model(**padded.given, output_router_logits=True)
    mask = padded.given["attention_mask"]
    counted, everything = (
        load_balancing_loss_func(out.router_logits, 4, 2, given) for given in (mask, None)
    )
    assert torch.equal(out.aux_loss, counted)
    assert not torch.allclose(out.aux_loss, everything)


def test_the_router_loss_reaches_trls_fused_head(padded):
    model = enable_multiverse_attention(tiny("qwen3_moe"))
    labels = padded.given["input_ids"].masked_fill(padded.given["attention_mask"] == 0, -100)
    own = model(**padded.given, labels=labels, output_router_logits=True)
    add_fused_lm_head(model)
    fused = model(**padded.given, labels=labels, fused_lm_head=True, output_router_logits=True)
    close(fused.aux_loss, own.aux_loss)
    close(fused.loss, own.loss)


# Refusals.


def test_a_model_of_text_and_images_is_refused():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = Gemma3Config(
        text_config=tiny("gemma3").config.to_dict(),
        vision_config={**vision, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
    )
    model = Gemma3ForConditionalGeneration(config)
    with pytest.raises(AttentionError, match="language model alone"):
        enable_multiverse_attention(model)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gemma3", {"use_bidirectional_attention": True}, "both directions"),
        ("qwen3", {"layer_types": ["chunked_attention", "full_attention"]}, "chunked_attention"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "dynamic",
        ),
    ],
)
def test_layers_that_the_mask_does_not_govern_are_refused(name, changes, message):
    with pytest.raises(AttentionError, match=message):
        enable_multiverse_attention(tiny(name, **changes))


def test_an_implementation_chosen_after_enabling_is_refused_when_called():
    model = enable_multiverse_attention(tiny("qwen3"))
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(AttentionError, match="flash_attention_2"):
        logits(model, packed_and_padded().given)
