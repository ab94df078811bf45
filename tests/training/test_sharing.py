"""Share-every-k in training: the mask of rank and order, from the collator to saved weights."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, PreTrainedModel

from sglang_multiverse.layout import LAYOUT_VERSION, Layout, layout, pack
from sglang_multiverse.tiny.dataset import messages
from sglang_multiverse.tiny.factory.exam import encode
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training import sft
from sglang_multiverse.training.attention import AttentionError, enable_multiverse_attention
from sglang_multiverse.training.collator import IGNORED, MultiverseCollator
from sglang_multiverse.training.masks import block_mask, dense_mask
from sglang_multiverse.training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer

from ..core.generate import DIALECT, WORD, make
from ..core.oracle import from_layout
from .architectures import ARCHITECTURES, Batch, packed_and_padded, tiny

EVERY = 4
SEEDS = (0, 1, 2)


@pytest.fixture(params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def logits(model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def seen_in_later_text(rows: Batch) -> np.ndarray:
    """``[row, t]``: which tokens some earlier token of the text sees."""
    return np.triu(rows.seen, 1).any(1)


# The seam, on every architecture.


@pytest.mark.parametrize("implementation", ["sdpa", "multiverse"])
@pytest.mark.parametrize("seed", SEEDS)
def test_logits_equal_a_brute_force_mask_on_a_model_without_the_hook(name, seed, implementation):
    rows = packed_and_padded(seed, EVERY)
    assert seen_in_later_text(rows).sum() > 20
    assert rows.seen.sum() > packed_and_padded(seed).seen.sum() + 200
    expected = logits(tiny(name), rows.by_brute_force())
    found = logits(enable_multiverse_attention(tiny(name, implementation)), rows.given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "multiverse"])
def test_a_changed_token_changes_what_sees_it_and_not_one_bit_elsewhere(name, implementation):
    rows = packed_and_padded(3, EVERY)
    model = enable_multiverse_attention(tiny(name, implementation))
    before = logits(model, rows.given)
    words = np.argwhere((rows.given["input_ids"] >= WORD).numpy() & seen_in_later_text(rows))
    for row, t in words[:: max(1, len(words) // 6)]:
        ids = rows.given["input_ids"].clone()
        ids[row, t] = WORD + 6
        same = (logits(model, {**rows.given, "input_ids": ids}) == before).all(-1).numpy()
        sees = np.zeros_like(same)
        sees[row] = rows.seen[row, :, t]
        assert sees[row, :t].any()
        assert same[~sees].all()
        assert not same[sees].any()


def test_gradients_stay_within_what_is_visible(name):
    """No label leaks into the prediction of it, by whatever way round through the siblings."""
    rows = packed_and_padded(0, EVERY)
    model = enable_multiverse_attention(tiny(name))
    given = {**rows.given}
    embedded = model.get_input_embeddings()(given.pop("input_ids")).detach().requires_grad_()
    out = model(inputs_embeds=embedded, **given).logits
    for row in range(len(rows.seen)):
        backward = np.flatnonzero(np.triu(rows.seen[row], 1).any(1))
        for t in backward[:: max(1, len(backward) // 4)]:
            (moved,) = torch.autograd.grad(out[row, t].sum(), embedded, retain_graph=True)
            reached = (moved.abs().sum(-1) > 0).numpy()
            assert np.array_equal(reached[row], rows.seen[row, t])
            assert not reached[np.arange(len(rows.seen)) != row].any()


def test_every_attention_implementation_has_the_same_logits(name):
    rows = packed_and_padded(0, EVERY)
    with torch.compiler.set_stance("force_eager"):
        sdpa, eager, flex = (
            logits(enable_multiverse_attention(tiny(name, implementation)), rows.given)
            for implementation in ("sdpa", "eager", "flex_attention")
        )
    torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=0)
    torch.testing.assert_close(flex, sdpa, atol=1e-5, rtol=0)


# The block mask.


def packed_rows(length: int, every: int, words: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Order and rank of two rows of packed texts with long paths, ``(2, length)`` int32."""
    rows = []
    for seed in (0, 300):
        parts: list[Layout] = []
        while (left := length - sum(map(len, parts))) > 0:
            seed += 1
            tokens = make(seed, depth=2, canonical=True, words=words, blocks=2).tokens()
            parts.append(layout(tokens[:left], DIALECT, share_every=every))
        rows.append(pack(parts))
    return tuple(
        torch.from_numpy(np.stack([getattr(row, which) for row in rows])).to(torch.int32)
        for which in ("order", "ranks")
    )


def dense_blocks(rule: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``[row, q block, k block]``: whether any pair is visible, and whether every token of the
    text in q block sees all of k block, which then is no block with padding."""
    batch, length = rule.shape[0], rule.shape[-1]
    short, blocks = -length % 128, -(-length // 128)

    def tiles(queries: bool) -> torch.Tensor:
        padded = torch.nn.functional.pad(rule, (0, short))
        padded = torch.nn.functional.pad(padded, (0, 0, 0, short), value=queries)
        return padded.view(batch, blocks, 128, blocks, 128)

    return tiles(False).any(4).any(2), tiles(True).all(4).all(2)


@pytest.mark.parametrize(
    ("length", "every", "words"),
    [(128, 16, 40), (1500, 16, 120), (1500, 200, 120), (2048, 16, 120), (4000, 500, 900)],
)
def test_block_lists_hold_every_block_with_a_visible_pair(length, every, words):
    order, rank = packed_rows(length, every, words)
    rule = dense_mask(order, rank)[:, 0]
    ours = block_mask(order, rank)
    some, whole = dense_blocks(rule)
    assert some.triu(1).any() == (length > 128)  # keys in later blocks than their queries
    listed = ours.to_dense()[:, 0].bool()
    assert not (some & ~listed).any()
    assert not (listed & ~some).any()  # so it is here: bounds alone do not promise it
    full = torch.zeros_like(listed)
    for row, blocks in enumerate(ours.full_kv_indices[:, 0]):
        for q, keys in enumerate(blocks):
            full[row, q, keys[: ours.full_kv_num_blocks[row, 0, q]].long()] = True
    assert torch.equal(full, whole)
    index = torch.arange(length)
    pairs = ours.mask_mod(torch.arange(2)[:, None, None], None, index[:, None], index[None, :])
    assert torch.equal(pairs, rule)


def test_a_rank_in_text_order_is_no_rank():
    order, _ = packed_rows(1500, 10**6)
    rank = torch.arange(1500, dtype=torch.int32).expand(2, -1)
    assert torch.equal(dense_mask(order, rank), dense_mask(order))
    theirs = create_block_mask(
        lambda b, _h, q, k: dense_mask(order)[b, 0, q, k], 2, None, 1500, 1500, device="cpu"
    )
    assert torch.equal(block_mask(order).to_dense(), theirs.to_dense())
    assert torch.equal(block_mask(order, rank).to_dense(), theirs.to_dense())


@pytest.mark.parametrize("length", [384, 700])
def test_flex_attention_over_the_block_lists_equals_the_dense_rule(length):
    torch.manual_seed(0)
    order, rank = packed_rows(length, 16)
    q, k, v = torch.randn(3, 2, 2, length, 16).unbind()
    flexible = flex_attention(q, k, v, block_mask=block_mask(order, rank))
    dense = scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(order, rank))
    torch.testing.assert_close(flexible, dense, atol=1e-5, rtol=1e-5)


# The collator.


@pytest.fixture
def texts(tokenizer) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer ids of a nested, a staged and a single problem."""
    kinds = ("nested", "staged", "single")
    problems = [next(generate(3, "train", {kind: 1.0})) for kind in kinds]
    return [encode(problem, "parallel", tokenizer) for problem in problems]


@pytest.fixture
def collator(tokenizer, dialect) -> MultiverseCollator:
    return MultiverseCollator(
        pad_token_id=tokenizer.pad_token_id, dialect=dialect, share_every=EVERY
    )


def example(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def test_rows_are_laid_out_whole_and_padding_is_alone(collator, dialect, texts):
    batch = collator([example(*text) for text in texts])
    mask = dense_mask(batch["multiverse_order"], batch["multiverse_rank"])[:, 0]
    assert batch["multiverse_rank"].dtype is torch.int32
    assert {tuple(value.shape) for value in batch.values()} == {tuple(mask.shape[:2])}
    for row, (prompt, answer) in enumerate(texts):
        n = len(prompt + answer)
        laid = layout(prompt + answer, dialect, share_every=EVERY)
        assert (laid.rank is None) == (row == 2)  # the last has no block
        assert np.array_equal(mask[row, :n, :n].numpy(), from_layout(laid))
        assert batch["position_ids"][row, :n].tolist() == laid.position.tolist()
        assert not mask[row, n:, :n].any()
        assert not mask[row, :n, n:].any()
        assert mask[row].diagonal().all()


def test_packed_texts_have_the_logits_they_have_alone(collator, texts, tokenizer, make_model):
    model = enable_multiverse_attention(make_model(vocab=len(tokenizer)))
    rows = [example(*text) for text in texts]
    packed = {key: list(chain.from_iterable(row[key] for row in rows)) for key in rows[0]}
    packed["seq_lengths"] = [len(row["input_ids"]) for row in rows]

    def of(examples: list[dict]) -> torch.Tensor:
        batch = collator(examples)
        batch.pop("labels")
        return logits(model, batch)

    together = of([packed])[0].split(packed["seq_lengths"])
    padded = of(rows)
    for row, alone in enumerate(rows):
        expected = of([alone])[0]
        torch.testing.assert_close(together[row], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(padded[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)


def test_only_the_mask_changes(collator, tokenizer, dialect, texts):
    bare = MultiverseCollator(pad_token_id=tokenizer.pad_token_id, dialect=dialect)
    ours, theirs = (each([example(*text) for text in texts]) for each in (collator, bare))
    rank, order = ours.pop("multiverse_rank"), ours.pop("multiverse_order")
    seen = dense_mask(theirs.pop("multiverse_order"))
    assert (dense_mask(order, rank) | ~seen).all()  # sharing takes nothing away
    assert not torch.equal(dense_mask(order, rank), seen)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("variant", ["autoregressive", "no-mask", "no-positions"])
def test_two_ablations_at_once_are_refused(tokenizer, dialect, variant):
    with pytest.raises(ValueError, match=f"share_every=4.*{variant}"):
        MultiverseCollator(pad_token_id=0, dialect=dialect, variant=variant, share_every=4)


# The hook: derived layouts, and what is refused.


def test_a_derived_layout_is_the_collators(make_model, tokenizer, dialect, collator, texts):
    model = enable_multiverse_attention(
        make_model(vocab=len(tokenizer)), dialect, share_every=EVERY
    )
    batch = collator([example(*text) for text in texts])
    batch.pop("labels")
    explicit = logits(model, batch)
    derived = logits(model, {key: batch[key] for key in ("input_ids", "attention_mask")})
    assert torch.equal(derived, explicit)
    enable_multiverse_attention(model, dialect)
    without = logits(model, {key: batch[key] for key in ("input_ids", "attention_mask")})
    assert not torch.equal(without, explicit)


def test_a_rank_without_its_order_or_of_another_shape_is_refused(make_model):
    model = enable_multiverse_attention(make_model())
    index = torch.arange(3)[None]
    given = {"input_ids": index + 1, "position_ids": index}
    with pytest.raises(AttentionError, match="multiverse_order"):
        model(**given, multiverse_rank=index)
    with pytest.raises(AttentionError, match=r"multiverse_rank has shape \(1, 2\)"):
        model(**given, multiverse_order=index, multiverse_rank=index[:, :2])


def test_weights_trained_with_sharing_are_not_run_without_it(make_model):
    record = {"layout": LAYOUT_VERSION, "share_every": 4}
    model = make_model(multiverse=record)
    for other in (None, 8):
        with pytest.raises(AttentionError, match="share_every=4"):
            enable_multiverse_attention(model, DIALECT, share_every=other)
    enable_multiverse_attention(model, DIALECT, share_every=4)
    index = torch.arange(3)[None]
    given = {"input_ids": index + 1, "position_ids": index, "multiverse_order": index}
    with pytest.raises(AttentionError, match="multiverse_rank"):
        model(**given)
    model(**given, multiverse_rank=index)
    with pytest.raises(ValueError, match="share_every=0"):
        enable_multiverse_attention(make_model(), DIALECT, share_every=0)


# The trainer.


def config(folder: Any, **changes: Any) -> MultiverseSFTConfig:
    return MultiverseSFTConfig(
        **{
            "output_dir": str(folder),
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "gradient_checkpointing": False,
            "bf16": False,
            "use_cpu": True,
            "logging_steps": 2,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "share_every": EVERY,
            **changes,
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {
            "eval_strategy": "steps",
            "eval_steps": 8,
            "eval_generations": 2,
            "eval_max_new_tokens": 9,
        },
        {"packing": True, "max_length": 1024, "per_device_train_batch_size": 1},
    ],
)
def test_the_trainer_learns_under_it_and_records_it(tmp_path, tokenizer, make_model, changes):
    problems = islice(generate(1, "train", {"sum": 0.7, "nested": 0.3}), 24)
    dataset = Dataset.from_list([messages(problem, "parallel") for problem in problems])
    trainer = MultiverseSFTTrainer(
        make_model(vocab=len(tokenizer), initializer_range=0.05),
        config(tmp_path, **changes),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(4)),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    index = torch.arange(batch["input_ids"].shape[1])
    assert (batch["multiverse_rank"] != index).any()
    handed: list[bool] = []
    trainer.model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: handed.append("multiverse_rank" in kwargs),
        with_kwargs=True,
        prepend=True,
    )
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    evaluated = any("eval_structure_finished" in entry for entry in trainer.state.log_history)
    assert evaluated == ("eval_generations" in changes)
    assert handed
    assert all(handed)
    trainer.save_model()
    back = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert back.config.multiverse == {"layout": LAYOUT_VERSION, "share_every": EVERY}


def test_it_is_a_flag_of_the_command():
    args = sft.parse(["--config", "tiny", "--share_every", "16"])[1]
    assert args.share_every == 16
    assert sft.parse(["--config", "tiny"])[1].share_every is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_every": 0}, "share_every=0"),
        ({"variant": "no-mask"}, "ablation"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)
