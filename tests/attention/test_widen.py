"""The tiny model in a larger shape computes the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM

from sglang_multiverse.tiny import MACHINES_DIR


@pytest.fixture(scope="module")
def widening(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "widen", repository / "benchmarks" / "gpu" / "widen.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["widen"] = module
    spec.loader.exec_module(module)
    return module


def test_logits_are_those_of_the_tiny_model(widening: ModuleType, tmp_path: Path) -> None:
    widening.widen(MACHINES_DIR, tmp_path / "wide", widening.Size(512, 512, 5, 4), torch.float32)
    small, wide = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (MACHINES_DIR, tmp_path / "wide")
    )
    assert wide.config.hidden_size // wide.config.num_attention_heads == 128
    ids = torch.randint(0, 400, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (model(ids).logits.log_softmax(-1) for model in (small, wide))
    assert (ours - theirs).abs().max() < 1e-3


def test_a_shape_that_does_not_hold_it_is_refused(widening: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hidden 64 is less than"):
        widening.widen(MACHINES_DIR, tmp_path, widening.Size(64, 512, 4, 4), torch.float32)
