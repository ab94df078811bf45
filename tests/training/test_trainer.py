"""TRL's own trainer under the layout: it learns, keeps paths apart, and its weights come back."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from sglang_multiverse.layout import LAYOUT_VERSION, layout
from sglang_multiverse.tiny.dataset import messages
from sglang_multiverse.tiny.factory.exam import encode
from sglang_multiverse.tiny.factory.train import rows, train
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.attention import dense_mask, enable_multiverse_attention
from sglang_multiverse.training.collator import IGNORED
from sglang_multiverse.training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer


@pytest.fixture
def dataset() -> Dataset:
    problems = islice(generate(1, "train", {"sum": 0.7, "nested": 0.3}), 40)
    return Dataset.from_list([messages(problem, "parallel") for problem in problems])


def config(folder: Path, **changes: Any) -> MultiverseSFTConfig:
    return MultiverseSFTConfig(
        **{
            "output_dir": str(folder),
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "gradient_checkpointing": False,
            "bf16": False,
            "use_cpu": True,
            "logging_steps": 4,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **changes,
        }
    )


def losses(trainer: MultiverseSFTTrainer) -> list[float]:
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "changes", [{}, {"packing": True, "max_length": 1024, "per_device_train_batch_size": 1}]
)
def test_a_few_steps_lower_the_loss_and_paths_stay_apart(
    tmp_path, dataset, tokenizer, dialect, make_model, changes
):
    model = make_model(vocab=len(tokenizer), initializer_range=0.05)
    trainer = MultiverseSFTTrainer(
        model, config(tmp_path, **changes), train_dataset=dataset, processing_class=tokenizer
    )
    trainer.train()
    first, *_, last = losses(trainer)
    assert last < 0.8 * first

    trainer.save_model()
    back = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert back.config.multiverse == {"layout": LAYOUT_VERSION}
    enable_multiverse_attention(back)
    model.eval()
    asked, answer = encode(next(generate(2, "train", {"nested": 1.0})), "parallel", tokenizer)
    laid = layout(asked + answer, dialect)
    given = {
        "position_ids": torch.from_numpy(laid.position)[None],
        "multiverse_order": torch.from_numpy(laid.order)[None],
    }
    ids = torch.tensor([asked + answer])
    before = model(input_ids=ids, **given).logits[0]
    assert torch.equal(back(input_ids=ids, **given).logits[0], before)
    t = (asked + answer).index(dialect.path_seed(())[0]) + 5
    ids[0, t] += 1
    after = model(input_ids=ids, **given).logits[0]
    sees = dense_mask(given["multiverse_order"])[0, 0, :, t]
    assert torch.equal((before != after).any(-1), sees)


def test_what_evaluate_prepares_again_stays_packed_and_flat(
    tmp_path, dataset, tokenizer, make_model
):
    changes = {"packing": True, "max_length": 1024, "per_device_train_batch_size": 1}
    for variant in ("multiverse", "autoregressive"):
        trainer = MultiverseSFTTrainer(
            make_model(vocab=len(tokenizer)),
            config(tmp_path, variant=variant, **changes),
            train_dataset=dataset,
            eval_dataset=dataset.select(range(8)),
            processing_class=tokenizer,
        )
        first = trainer.evaluate()["eval_loss"]
        assert trainer.evaluate(trainer.eval_dataset)["eval_loss"] == first
        fresh = trainer.evaluate({"other": dataset.select(range(8))})
        assert fresh["eval_other_loss"] == first


def test_a_dataset_that_is_packed_already_is_refused(tmp_path, tokenizer, make_model):
    packed = Dataset.from_list([{"input_ids": [5, 6], "labels": [5, 6], "seq_lengths": [1, 1]}])
    with pytest.raises(ValueError, match="packed already"):
        MultiverseSFTTrainer(
            make_model(vocab=len(tokenizer)),
            config(tmp_path),
            train_dataset=packed,
            processing_class=tokenizer,
        )


def test_labels_are_the_answer_without_what_the_engine_writes(
    tmp_path, dataset, tokenizer, make_model
):
    trainer = MultiverseSFTTrainer(
        make_model(vocab=len(tokenizer)),
        config(tmp_path),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    text = tokenizer.decode(batch["labels"][0][batch["labels"][0] != IGNORED])
    assert text.startswith("<Think>\nLet's think in parallel.\n<Parallel>\n<Goal>")
    assert text.endswith("<|im_end|>\n")
    assert "</Path>" in text
    assert "<Path>" not in text
    assert "<Conclusion>" not in text


def test_gradient_checkpointing_changes_no_number(tmp_path, dataset, tokenizer, make_model):
    seen = []
    for checkpointing in (False, True):
        trainer = MultiverseSFTTrainer(
            make_model(vocab=len(tokenizer)),
            config(tmp_path, max_steps=2, logging_steps=1, gradient_checkpointing=checkpointing),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.train()
        seen.append(losses(trainer))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": True, "packing_strategy": "wrapped"}, "bfd"),
        ({"packing": True, "packing_strategy": "bfd_split"}, "bfd"),
        ({"truncation_mode": "keep_end"}, "keep_start"),
        ({"padding_free": True}, "packing"),
    ],
)
def test_settings_that_would_break_blocks_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_texts_may_be_long_unless_told_otherwise(tmp_path):
    assert config(tmp_path).max_length == 32768


def test_the_recipe_goes_on_from_its_checkpoint(tmp_path):
    settings: dict[str, Any] = {
        "batch_size": 2,
        "learning_rate": 1e-3,
        "muon_learning_rate": 1e-2,
        "seed": 0,
        "every": 2,
        "bf16": False,
        "exam_size": 2,
    }
    whole = train(tmp_path / "whole", steps=4, **settings)
    train(tmp_path / "parts", steps=4, stop_after=2, **settings)
    parts = train(tmp_path / "parts", steps=4, **settings)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, parts)]
    assert weights[0] == weights[1]
    assert json.loads((parts / "generation_config.json").read_text())["eos_token_id"] == 2


def test_rows_are_seeded_and_batched_by_length():
    made = rows(3, 30, 4)
    assert made == rows(3, 30, 4)
    assert made[:48] == rows(3, 12, 4)
    sizes = [len(row["completion"][0]["content"]) for row in made]
    assert len(made) == 120
    batches = [sizes[i : i + 4] for i in range(0, 120, 4)]
    spread = sum(max(batch) - min(batch) for batch in batches) / len(batches)
    assert spread < 0.25 * (max(sizes) - min(sizes))
