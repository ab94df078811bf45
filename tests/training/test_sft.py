"""``multiverse sft``: from a recipe and flags to a saved model, and what it says before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.curriculum import STAGES
from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.layout import LAYOUT_VERSION
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.dataset import tiny_rows
from sglang_multiverse.training import sft
from sglang_multiverse.training.lora import merge_adapter
from sglang_multiverse.training.sources import SourceError, in_stages
from sglang_multiverse.training.trainer import MultiverseSFTConfig


def flags(folder: Path, *more: str) -> list[str]:
    """The tiny recipe cut to three steps."""
    return [
        "--config",
        "tiny",
        "--output_dir",
        str(folder),
        "--tiny_rows",
        "24",
        "--max_steps",
        "3",
        "--logging_steps",
        "1",
        "--disable_tqdm",
        "true",
        *more,
    ]


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def run(arguments: list[str]) -> Any:
    return sft.run(*sft.parse(arguments))


def test_the_tiny_recipe_trains_evaluates_structure_and_saves(tmp_path):
    trainer = run(
        flags(
            tmp_path,
            "--eval_strategy",
            "steps",
            "--eval_steps",
            "3",
            "--eval_generations",
            "2",
            "--eval_max_new_tokens",
            "200",
        )
    )
    logged: dict[str, Any] = {}
    for entry in trainer.state.log_history:
        logged |= entry
    assert logged["tokens_per_second"] > 0
    # The shipped model, three gentle steps on: it still forks, in canonical form.
    assert logged["eval_structure_valid"] == logged["eval_structure_finished"] == 1.0
    assert logged["eval_structure_forked"] > 0
    assert logged["eval_parallelism"] > 1
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["multiverse"] == {"layout": LAYOUT_VERSION}
    before, after = weights(MODEL_DIR), weights(tmp_path)
    assert all(before[name].shape == after[name].shape for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_lora_trains_the_tags_and_merges_into_a_model_to_serve(tmp_path, tokenizer):
    run(
        flags(
            tmp_path / "lora",
            "--eval_strategy",
            "no",
            "--eval_generations",
            "0",
            "--use_peft",
            "--lora_target_modules",
            "q_proj",
            "v_proj",
            "--learning_rate",
            "0.01",
        )
    )
    merged = merge_adapter(tmp_path / "lora", tmp_path / "merged")
    assert merged.layout == LAYOUT_VERSION
    before, after = weights(MODEL_DIR), weights(tmp_path / "merged")
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(-1)
    tags = set(tokenizer.convert_tokens_to_ids(list(MULTIVERSE.tags)))
    assert set(rows.nonzero().flatten().tolist()) == tags
    touched = [name for name in before if not torch.equal(before[name], after[name])]
    assert {name.split(".")[-2] for name in touched if "layers" in name} == {"q_proj", "v_proj"}


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(tmp_path, capsys):
    rows = tiny_rows(0, "train", 20)
    rows[3]["completion"][0]["content"] = rows[3]["completion"][0]["content"].replace(
        "</Path>\n<Path>", "<Path>", 1
    )
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    arguments = ["--dataset_name", str(data), "--max_length", "400", "--dry_run"]
    assert run(flags(out, *arguments)) is None
    said = capsys.readouterr().out
    assert "dropped 1: malformed: " in said
    assert "longer than 400 tokens" in said
    assert "degree of parallelism 1." in said
    assert "1,288,832 parameters, 1,288,832 of them trained" in said
    assert re.search(r"\d+ examples with blocks: \d+ blocks, \d+ paths, depth 1", said)
    assert "Qwen2ForCausalLM attends by" in said
    assert "nothing was trained" in said
    assert not out.exists()


def test_the_autoregressive_baseline_is_one_switch(tmp_path, tokenizer):
    arguments = ["--eval_strategy", "no", "--eval_generations", "0"]
    trainer = run(flags(tmp_path, "--variant", "autoregressive", *arguments))
    path = tokenizer.convert_tokens_to_ids("<Path>")
    assert not any(path in ids for ids in trainer.train_dataset["input_ids"])
    batch = next(iter(trainer.get_train_dataloader()))
    causal = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    assert torch.equal(*(x * batch["attention_mask"] for x in (batch["position_ids"], causal)))
    assert "multiverse" not in json.loads((tmp_path / "config.json").read_text())


def test_the_baseline_has_the_same_questions_asked_step_by_step(tmp_path, tokenizer):
    rows = [{"prompt": "2+2?\n", "completion": BLOCK} for _ in range(3)]
    rows[1]["completion"] = BLOCK.replace("</Path>\n<Path>", "</Path>\n\n<Path>")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--dataset_name", str(data), "--eval_strategy", "no", "--eval_generations", "0"]
    arguments += ["--prompt_mode", "auto"]
    kept = {}
    for variant in ("multiverse", "autoregressive"):
        trainer = run(flags(tmp_path / variant, "--variant", variant, *arguments))
        kept[variant] = trainer.screenings["train"].kept
        text = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
        parallel = variant == "multiverse"
        sentence = MULTIVERSE.parallel_prompt if parallel else MULTIVERSE.sequential_prompt
        assert text.startswith(f"2+2? {sentence}\n<Think>")
    assert kept == {"multiverse": 2, "autoregressive": 2}


BLOCK = (
    "<Think>\nLet's think in parallel.\n<Parallel>\n<Goal>\n<Outline>\n1: P\n</Outline>\n"
    "<Outline>\n2: Q\n</Outline>\n</Goal>\n<Path>\n1: A\n</Path>\n<Path>\n2: B\n</Path>\n"
    "<Conclusion>\nAB\n</Conclusion>\n</Parallel>\n</Think>\n\nAnswer: AB"
)


def test_the_curriculum_lays_out_eight_passes(tokenizer):
    rows = tiny_rows(0, "train", 7)  # all asked for in parallel, one without a block
    staged = in_stages(Dataset.from_list(rows), seed=1)
    assert len(staged) == 7 * len(STAGES)
    forked = ["<Path>" in row["completion"][0]["content"] for row in staged]
    asked = ["in parallel" in row["prompt"][0]["content"] for row in staged]
    assert forked == asked
    n = sum("<Path>" in row["completion"][0]["content"] for row in rows)
    passes = [sum(asked[at : at + 7]) for at in range(0, 56, 7)]
    assert passes[:2] == [0, 0]
    assert passes[-2:] == [n, n]
    assert passes[2] + passes[5] == passes[3] + passes[4] == n


def test_settings_and_names_that_cannot_be_are_refused(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(0, "train", 3)))
    with pytest.raises(sft.ConfigError, match=r"recipe of that name: .*tiny"):
        sft.parse(["--config", "nowhere"])
    with pytest.raises(SourceError, match="no split 'held'; it has train"):
        run(flags(tmp_path, "--dataset_name", str(data), "--dataset_test_split", "held"))
    with pytest.raises(sft.ConfigError, match="train_sampling_strategy"):
        run(flags(tmp_path, "--curriculum"))
    with pytest.raises(ValueError, match="variant='dense' is none of"):
        MultiverseSFTConfig(str(tmp_path), variant="dense", use_cpu=True, bf16=False)
    (tmp_path / "rows.txt").write_text("")
    with pytest.raises(SourceError, match=r"cannot read '\.txt'"):
        run(flags(tmp_path, "--dataset_name", str(tmp_path / "rows.txt")))


def test_a_file_without_a_test_split_is_trained_on_without_evaluation(tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(0, "train", 3)))
    trainer = run(flags(tmp_path / "out", "--dataset_name", str(data)))
    assert "no evaluation: the dataset has no split 'test'" in capsys.readouterr().out
    assert not any(key.startswith("eval_") for one in trainer.state.log_history for key in one)


def test_a_mixture_takes_files_as_dataset_name_does(tmp_path):
    for name in ("a", "b"):
        rows = tiny_rows(ord(name), "train", 2)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load((sft.RECIPES / "tiny.yaml").read_text())
    recipe["datasets"] = [{"path": str(tmp_path / f"{name}.jsonl")} for name in ("a", "b")]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "out")]
    trainer = run([*flags, "--max_steps", "1"])
    assert trainer.screenings["train"].kept == 4
    assert "`a.jsonl`, `b.jsonl`" in (tmp_path / "out" / "README.md").read_text()


def test_the_command_lists_its_recipes_and_ends_with_a_word():
    said = CliRunner().invoke(app, ["sft"])
    assert said.exit_code == 2
    assert said.output.rstrip().endswith("32b, 7b, lora, tiny")
    bare = CliRunner().invoke(app, ["sft", "--config"])
    assert bare.exit_code != 0
    wrong = CliRunner().invoke(app, ["sft", "--config", "nowhere"])
    assert wrong.exit_code != 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dataset_name": "nope.jsonl"}, "error: dataset_name nope.jsonl: no such file"),
        ({"datasets": [{"path": "tiny"}, {"path": "./no"}]}, "error: datasets[1].path ./no: no s"),
    ],
)
def test_data_that_a_config_names_are_asked_for_before_anything_is_imported(
    tmp_path, monkeypatch, fields, says
):
    monkeypatch.setattr(sft, "main", lambda arguments: pytest.fail("training was begun"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
    said = CliRunner().invoke(app, ["sft", "--config", str(tmp_path / "config.yaml")])
    assert said.exit_code == 2
    assert says in said.output
    assert said.output.count("\n") == 1


@pytest.mark.parametrize("name", ["tiny", "lora", "7b", "32b"])
def test_every_recipe_parses_into_its_settings(name, tmp_path):
    written = yaml.safe_load((sft.RECIPES / f"{name}.yaml").read_text())
    written |= {"bf16": False, "use_cpu": True}  # as a machine without a GPU would have it
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(written))
    script, args, model, _ = sft.parse(["--config", str(file)])
    for key, value in written.items():
        if key == "report_to":
            continue  # transformers turns "none" into an empty list
        holder = next(one for one in (script, args, model) if key in vars(one))
        found = getattr(holder, key)
        assert found == value or str(found).split(".")[-1].lower() == str(value), key
