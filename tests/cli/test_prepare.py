"""``multiverse prepare-model`` and ``multiverse merge-adapter`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.dialect import MULTIVERSE, Dialect
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.training.lora import with_tag_rows
from tests.core.tokenizers_made import byte_level


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "source")
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(tags=[end]), eos_token=end)
    tokenizer.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_what_was_done_is_told(tmp_path, source):
    done = run("prepare-model", source, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    head, added, rows, dtype = done.stdout.splitlines()
    assert head == f"{source} → {tmp_path / 'out'}"
    assert added.startswith("added 12 tokens with rows of their own: <Think> 257, ")
    assert rows == "300 rows (as before), shared by input and output; 269 tokens"
    assert dtype == "saved in float32"
    again = run("prepare-model", tmp_path / "out", "--out", tmp_path / "again")
    assert "nothing to add: all tags of multiverse were there" in again.stdout
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert weights[0] == weights[1]


def test_a_program_reads_one_object(tmp_path, source):
    out = tmp_path / "out"
    done = run("prepare-model", source, "--out", out, "--dtype", "bfloat16", "--json")
    assert json.loads(done.stdout) == {
        "source": str(source),
        "out": str(out),
        "dialect": "multiverse",
        "added": list(MULTIVERSE.tags),
        "token_ids": dict(zip(MULTIVERSE.tags, range(257, 269), strict=True)),
        "vocabulary": 269,
        "rows_before": 300,
        "rows": 300,
        "tied": True,
        "dtype": "bfloat16",
    }
    assert Dialect.from_tokenizer(AutoTokenizer.from_pretrained(out)).tag_ids[0] == 257


def test_errors_are_one_line(tmp_path, source):
    for args, message in [
        ((source, "--out", source, "--overwrite"), "would overwrite"),
        ((tmp_path / "none", "--out", tmp_path / "out"), "holds no tokenizer"),
        ((source, "--out", tmp_path / "out", "--dialect", "x"), "unknown dialect 'x'; known: mult"),
        ((source, "--out", tmp_path), "would overwrite"),
    ]:
        done = run("prepare-model", *args)
        assert done.exit_code == 2
        assert done.stdout == ""
        (line,) = [line for line in done.stderr.splitlines() if line]
        assert line.startswith("error: ")
        assert message in line
    assert run("prepare-model", source, "--out", "x", "--dtype", "int8").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_shipped_model_comes_out_as_it_is(tmp_path):
    done = run("prepare-model", MODEL_DIR, "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["added"] == []
    for folder in (MODEL_DIR, tmp_path / "out"):
        assert json.loads((folder / "config.json").read_text())["multiverse"] == {"layout": 1}
    was, now = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
        for folder in (MODEL_DIR, tmp_path / "out")
    )
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)


def test_an_adapter_becomes_a_checkpoint(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, with_tag_rows(lora, model, tokenizer))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "trainable_tokens_delta" in name:
                weight.add_(torch.randn(weight.shape) / 100)
    adapted.save_pretrained(tmp_path / "adapter")
    out = tmp_path / "out"
    done = run("merge-adapter", tmp_path / "adapter", "--out", out, "--dtype", "float32")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("saved in float32, layout 1\n")
    ids = torch.tensor([tokenizer.encode("<Parallel>\n<Goal>\n1 + 2")])
    merged = AutoModelForCausalLM.from_pretrained(out).eval()
    torch.testing.assert_close(
        merged(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits, atol=1e-4, rtol=1e-5
    )
    failed = run("merge-adapter", MODEL_DIR, "--out", tmp_path / "other")
    assert failed.exit_code == 2
    assert "there is no adapter_config.json" in failed.stderr
