"""The card beside a trained model: what it is, what it was trained on, how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from sglang_multiverse.layout import LAYOUT_VERSION
from sglang_multiverse.training import sft
from sglang_multiverse.training.card import Facts, model_card

from .test_preflight import flags


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The head and the text."""
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_a_trained_model_says_what_it_is_and_how_to_serve_it(tmp_path):
    trainer = sft.run(*sft.parse(flags(tmp_path, "--save_strategy", "steps", "--save_steps", "1")))
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        head, text = card(folder)
        assert head["library_name"] == "transformers"
        assert "base_model" not in head  # a folder is no name on the Hub
        assert "multiverse" in head["tags"]
        assert f"| layout | {LAYOUT_VERSION} |" in text
        assert "| base model | `tiny` |" in text
        assert "| variant | `multiverse` |" in text
        assert "| share_every | none |" in text
        for line in trainer.screenings["train"].lines():
            assert f"- train: {line}" in text
        assert "multiverse serve --model-path ." in text
        assert "2506.09991" in text
        assert str(tmp_path) not in text
        assert "TRL" not in text


def test_an_adapter_has_the_card_and_not_that_of_peft(tmp_path):
    sft.run(*sft.parse(flags(tmp_path, "--use_peft", "true", "--lora_target_modules", "q_proj")))
    head, text = card(tmp_path / "out")
    assert head["library_name"] == "peft"
    assert "multiverse merge-adapter . --out merged" in text
    assert "multiverse serve --model-path merged" in text
    assert "[More Information Needed]" not in text


@pytest.mark.parametrize("variant", ["autoregressive", "no-mask", "no-positions"])
def test_other_variants_say_how_far_they_can_be_served(variant):
    text = model_card(facts(variant=variant))
    assert ("multiverse serve" in text) == (variant == "autoregressive")


def test_a_base_on_the_hub_stands_in_the_head_the_hub_reads():
    made = ModelCard(model_card(facts(base="Qwen/Qwen3-4B", data=["someone/some-data"])))
    assert made.data.base_model == "Qwen/Qwen3-4B"
    assert made.data.datasets == ["someone/some-data"]
    assert made.data.pipeline_tag == "text-generation"


def facts(**changes: Any) -> Facts:
    return Facts(
        **{
            "name": "mine",
            "base": "Qwen/Qwen3-4B",
            "adapter": False,
            "variant": "multiverse",
            "share_every": None,
            "curriculum": False,
            "data": [],
            "screenings": {},
            "tags": ["trl"],
            "steps": 3,
            **changes,
        }
    )
