"""LoRA under the real trainer: the tags' rows train, no other does, and it all merges back."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
)
from trl.trainer.utils import add_fused_lm_head

from sglang_multiverse.dialect import Dialect, DialectError
from sglang_multiverse.layout import LAYOUT_VERSION
from sglang_multiverse.tiny.factory.exam import messages
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.checkpoint import CheckpointError
from sglang_multiverse.training.lora import (
    RECORD,
    LoraError,
    merge_adapter,
    ready_head,
    save_record,
    with_tag_rows,
)
from sglang_multiverse.training.tokens import prepare_model, tied
from sglang_multiverse.training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer

Weights = dict[str, torch.Tensor]


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(
        **{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    )


def small(family: type, rows: int, tie: bool, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = family(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        tie_word_embeddings=tie,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        **changes,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    problems = islice(generate(1, "train", {"sum": 1.0}), 12)
    return Dataset.from_list([messages(problem, "parallel") for problem in problems])


@pytest.fixture
def base(tmp_path, request, tokenizer) -> Path:
    """A checkpoint on disk; the parameter is (family, tied)."""
    family, tie = getattr(request, "param", (Qwen2Config, True))
    folder = tmp_path / "base"
    small(family, len(tokenizer) + 5, tie).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


KINDS = pytest.mark.parametrize(
    "base",
    [(Qwen2Config, True), (Qwen2Config, False), (LlamaConfig, True), (LlamaConfig, False)],
    ids=["qwen2-tied", "qwen2", "llama-tied", "llama"],
    indirect=True,
)


def trained(base: Path, out: Path, dataset: Dataset, tokenizer: Any, **changes: Any):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=changes.pop("dtype", torch.float32))
    peft_config = with_tag_rows(changes.pop("peft_config", lora()), model, tokenizer)
    settings = {
        "output_dir": str(out),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = MultiverseSFTTrainer(
        model,
        MultiverseSFTConfig(**settings | changes),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    ready_head(trainer.model)
    trainer.train()
    trainer.save_model()
    trainer.model.eval()
    return trainer


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = torch.tensor([tokenizer.encode("A = 1+2\n<Path>\n1: 3\n</Path>\n")])
    with torch.no_grad():
        return model(input_ids=ids).logits


def ends(model: PreTrainedModel) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


# Training.


@KINDS
def test_the_rows_of_the_tags_train_and_no_other(tmp_path, base, dataset, tokenizer, dialect):
    was = [table.clone() for table in ends(AutoModelForCausalLM.from_pretrained(base))]
    trainer = trained(base, tmp_path / "run", dataset, tokenizer)
    model = trainer.model.get_base_model()
    tags = torch.zeros(len(was[0]), dtype=torch.bool)
    tags[list(dialect.tag_ids)] = True
    for table, before in zip(ends(model), was, strict=True):
        assert torch.equal(table[~tags], before[~tags])
        moved = (table[tags] != before[tags]).any(-1)
        assert moved.all()
    if model.config.tie_word_embeddings:
        assert torch.equal(*ends(model))
    trainable = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    deltas = [name for name in trainable if "trainable_tokens_delta" in name]
    assert len(deltas) == (1 if model.config.tie_word_embeddings else 2)
    assert all("lora_" in name for name in trainable if name not in deltas)


@KINDS
def test_adapter_and_merged_model_say_the_same(tmp_path, base, dataset, tokenizer):
    trainer = trained(base, tmp_path / "run", dataset, tokenizer)
    said = logits(trainer.model, tokenizer)
    assert not torch.allclose(said, logits(AutoModelForCausalLM.from_pretrained(base), tokenizer))

    plain = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "run").eval()
    assert torch.equal(logits(adapted, tokenizer), said)

    shared = plain.config.tie_word_embeddings
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, tokenizer), said, atol=1e-5, rtol=0)
    assert merged.lm_head.bias is None
    assert tied(merged) == shared
    merged.save_pretrained(tmp_path / "by-hand")
    back, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "by-hand", output_loading_info=True
    )
    assert not any(report.values())
    assert torch.equal(logits(back.eval(), tokenizer), logits(merged, tokenizer))
    assert tied(back) == shared


def test_the_run_goes_on_from_a_checkpoint(tmp_path, base, dataset, tokenizer):
    settings: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer = trained(base, tmp_path / "run", dataset, tokenizer, **settings)
    rows = ends(trainer.model.get_base_model())[0].clone()
    model = AutoModelForCausalLM.from_pretrained(base)
    again = MultiverseSFTTrainer(
        model,
        trainer.args,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=with_tag_rows(lora(), model, tokenizer),
    )
    ready_head(again.model)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert torch.equal(ends(again.model.get_base_model())[0], rows)


@pytest.mark.parametrize("base", [(Qwen2Config, True), (Qwen2Config, False)], indirect=True)
def test_rows_train_in_float32_beside_a_bfloat16_model(tmp_path, base, dataset, tokenizer, dialect):
    was = [
        table.clone()
        for table in ends(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16))
    ]
    trainer = trained(
        base,
        tmp_path / "run",
        dataset,
        tokenizer,
        dtype=torch.bfloat16,
        gradient_checkpointing=True,
    )
    ids = list(dialect.tag_ids)
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            assert weight.dtype == torch.float32, name
    for table, before in zip(ends(trainer.model.get_base_model()), was, strict=True):
        assert (table[ids] != before[ids]).any(-1).all()


# The loss of TRL's head.


@pytest.mark.parametrize("tie", [True, False])
def test_trls_fused_loss_is_the_plain_one_once_the_head_is_ready(tokenizer, dialect, tie):
    model = small(Qwen2Config, len(tokenizer), tie)
    peft_config = with_tag_rows(lora(), model, tokenizer)
    add_fused_lm_head(model)
    adapted = get_peft_model(model, peft_config)
    ids = torch.tensor([[5, *dialect.tag_ids, 7, 9, 11]])
    with pytest.raises(AttributeError, match="bias"):  # once this passes, ready_head can go
        adapted(input_ids=ids, labels=ids, fused_lm_head=True)
    ready_head(adapted)
    ready_head(adapted)
    fused = adapted(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
    plain = adapted(input_ids=ids).logits[:, :-1].log_softmax(-1)
    plain = plain.gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    rows = [w for name, w in adapted.named_parameters() if "trainable_tokens_delta" in name]
    assert len(rows) == (1 if tie else 2)
    of_fused, of_plain = (torch.autograd.grad(one.sum(), rows) for one in (fused, plain))
    for one, other in zip(of_fused, of_plain, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_head_that_needs_nothing_is_left_alone(tokenizer):
    model = small(Qwen2Config, len(tokenizer), False)
    ready_head(model)
    whole = get_peft_model(model, lora(modules_to_save=["lm_head", "embed_tokens"]))
    ready_head(whole)
    assert "bias" not in whole.get_base_model().lm_head._parameters


# The configuration.


def test_which_rows_train(tokenizer, dialect):
    ids = list(dialect.tag_ids)
    shared, apart = (small(Qwen2Config, len(tokenizer), tie) for tie in (True, False))
    given = lora()
    assert with_tag_rows(given, shared, tokenizer).trainable_token_indices == {"embed_tokens": ids}
    assert given.trainable_token_indices is None
    made = with_tag_rows(given, apart, tokenizer)
    assert made.trainable_token_indices == {"embed_tokens": ids, "lm_head": ids}
    assert with_tag_rows(made, apart, tokenizer) == made
    llama = with_tag_rows(lora(), small(LlamaConfig, len(tokenizer), True), tokenizer)
    assert llama.trainable_token_indices == {"embed_tokens": ids}


def test_rows_the_user_chose_stay_chosen(tokenizer, dialect):
    ids = list(dialect.tag_ids)
    shared, apart = (small(Qwen2Config, len(tokenizer), tie) for tie in (True, False))
    for model, chosen, expected in [
        (shared, [90, ids[0]], {"embed_tokens": [90, *ids]}),
        (shared, {"lm_head": [90]}, {"embed_tokens": [90, *ids]}),
        (shared, {"model.embed_tokens": [90], "lm_head": [91]}, {"embed_tokens": [90, 91, *ids]}),
        (apart, [90], {"embed_tokens": [90, *ids], "lm_head": ids}),
        (apart, {"lm_head": [90]}, {"lm_head": [90, *ids], "embed_tokens": ids}),
    ]:
        made = with_tag_rows(lora(trainable_token_indices=chosen), model, tokenizer)
        assert made.trainable_token_indices == expected
        get_peft_model(small(Qwen2Config, len(tokenizer), tied(model)), made)


def test_tables_that_train_as_a_whole_are_left_to_it(tokenizer, dialect):
    ids = list(dialect.tag_ids)
    shared, apart = (small(Qwen2Config, len(tokenizer), tie) for tie in (True, False))
    for model, changes, expected in [
        (apart, {"modules_to_save": ["lm_head"]}, {"embed_tokens": ids}),
        (apart, {"modules_to_save": ["model.embed_tokens"]}, {"lm_head": ids}),
        (apart, {"modules_to_save": ["lm_head", "embed_tokens"]}, None),
        (shared, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, None),
    ]:
        made = with_tag_rows(lora(**changes), model, tokenizer)
        assert made.trainable_token_indices == expected
        get_peft_model(small(Qwen2Config, len(tokenizer), tied(model)), made)


@pytest.mark.parametrize("table", ["embed_tokens", "lm_head"])
def test_a_shared_table_is_not_torn_apart(tokenizer, table):
    with pytest.raises(LoraError, match=r"one table.*ensure_weight_tying=True"):
        with_tag_rows(
            lora(modules_to_save=[table]), small(Qwen2Config, len(tokenizer), True), tokenizer
        )


@pytest.mark.parametrize("targets", [["q_proj", "embed_tokens"], r".*\.(q_proj|embed_tokens)"])
def test_lora_on_a_table_itself_is_refused(tokenizer, targets):
    model = small(Qwen2Config, len(tokenizer), True)
    with pytest.raises(LoraError, match=r"LoRA on model\.embed_tokens"):
        with_tag_rows(lora(target_modules=targets), model, tokenizer)


def test_a_model_without_rows_for_the_tags_is_refused(tokenizer, dialect):
    model = small(Qwen2Config, max(dialect.tag_ids), True)
    with pytest.raises(LoraError, match="multiverse prepare-model"):
        with_tag_rows(lora(), model, tokenizer)


def test_a_bias_that_peft_would_drop_is_refused(tokenizer, dialect):
    model = small(PhiConfig, len(tokenizer), False)
    with pytest.raises(LoraError, match=r"bias.*modules_to_save=\['lm_head'\]"):
        with_tag_rows(lora(), model, tokenizer)
    made = with_tag_rows(lora(modules_to_save=["lm_head"]), model, tokenizer)
    assert made.trainable_token_indices == {"embed_tokens": list(dialect.tag_ids)}


def test_other_adapters_and_tokenizers_without_tags_are_refused(tokenizer, base):
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(LoraError, match="IA3Config"):
        with_tag_rows(IA3Config(), model, tokenizer)
    bare = json.loads((base / "tokenizer.json").read_text())
    bare["added_tokens"] = [one for one in bare["added_tokens"] if "Path" not in one["content"]]
    bare["model"]["vocab"] = {w: i for w, i in bare["model"]["vocab"].items() if "Path>" not in w}
    (base / "tokenizer.json").write_text(json.dumps(bare))
    config = json.loads((base / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = []
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(DialectError, match="lacks <Path>, </Path>"):
        with_tag_rows(lora(), model, AutoTokenizer.from_pretrained(base))


@KINDS
def test_a_model_may_be_given_by_name(base, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base)
    assert with_tag_rows(lora(), str(base), tokenizer) == with_tag_rows(lora(), model, tokenizer)


# Merging.


@pytest.mark.parametrize("base", [(Qwen2Config, True), (Qwen2Config, False)], indirect=True)
def test_a_merged_adapter_is_a_checkpoint(tmp_path, base, dataset, tokenizer, dialect):
    trainer = trained(base, tmp_path / "run", dataset, tokenizer)
    said = logits(trainer.model, tokenizer)
    done = merge_adapter(tmp_path / "run", tmp_path / "out")
    assert (done.base, done.dtype) == (str(base), "float32")
    back, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(logits(back.eval(), tokenizer), said, atol=1e-5, rtol=0)
    assert Dialect.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "out")) == dialect
    assert not (tmp_path / "out" / "adapter_config.json").exists()


@pytest.mark.parametrize("place", ["run", "base"])
def test_the_record_of_the_layout_survives_the_merger(tmp_path, base, tokenizer, place):
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, with_tag_rows(lora(), model, tokenizer))
    adapted.save_pretrained(tmp_path / "run")
    save_record(adapted, tmp_path / "run")
    assert merge_adapter(tmp_path / "run", tmp_path / "none").layout is None
    assert "multiverse" not in json.loads((tmp_path / "none" / "config.json").read_text())
    model.config.multiverse = {"layout": LAYOUT_VERSION}
    if place == "run":
        save_record(adapted, tmp_path / "run")
    else:  # an adapter that says nothing leaves its base's record
        (tmp_path / "run" / RECORD).unlink()
        model.config.save_pretrained(base)
    assert merge_adapter(tmp_path / "run", tmp_path / "out").layout == LAYOUT_VERSION
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["multiverse"] == {"layout": LAYOUT_VERSION}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run")._hf_peft_config_loaded
    vars(model.config).pop("multiverse")
    save_record(adapted, tmp_path / "run")  # trained as an ordinary model, whatever its base was
    assert merge_adapter(tmp_path / "run", tmp_path / "ordinary").layout is None


def test_an_adapter_is_not_prepared(tmp_path, base, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, with_tag_rows(lora(), model, tokenizer)).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"is an adapter.*multiverse merge-adapter"):
        prepare_model(tmp_path / "run", tmp_path / "out")


def test_adapters_that_cannot_be_merged(tmp_path, base, tokenizer):
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        merge_adapter(base, tmp_path / "out")
    model = small(Qwen2Config, len(tokenizer), True)
    get_peft_model(model, with_tag_rows(lora(), model, tokenizer)).save_pretrained(tmp_path / "run")
    with pytest.raises(CheckpointError, match="--base"):
        merge_adapter(tmp_path / "run", tmp_path / "out")
    for out in (base, tmp_path / "run"):
        with pytest.raises(CheckpointError, match="would overwrite"):
            merge_adapter(tmp_path / "run", out, base=base, overwrite=True)
    wide = small(Qwen2Config, len(tokenizer), True, head_dim=16)
    wide.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(CheckpointError, match="does not fit"):
        merge_adapter(tmp_path / "run", tmp_path / "out", base=tmp_path / "wide")
    assert not (tmp_path / "out").exists()
