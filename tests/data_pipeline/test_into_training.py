"""From cassettes to weights: a run, its export, and fine-tuning on the mixture."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from sglang_multiverse.data_pipeline.teacher.cassette import Cassette

from .replay import ReplayServer
from .test_curate_cli import curate

pytest.importorskip("trl", reason="needs the extra `train`")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_is_curated_can_be_trained_on(
    light: list[Cassette], configure: Callable[..., Path], tmp_path: Path
) -> None:
    from sglang_multiverse.training import sft

    items = [one for one in light if one.name in ("clean", "too-deep", "two-blocks")]
    store = tmp_path / "store.sqlite"
    with ReplayServer(items) as server:
        curate("run", configure(server.url, items=items), "--store", store)
    curate("export", tmp_path / "out", "--store", store, "--no-plots")
    flags = {
        "config": "tiny",
        "dataset_name": str(tmp_path / "out"),
        "dataset_config": "mixed",
        "output_dir": str(tmp_path / "model"),
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": "2",
        "max_steps": "2",
        "logging_steps": "1",
        "disable_tqdm": "true",
    }
    arguments = [word for name, value in flags.items() for word in (f"--{name}", value)]
    trainer = sft.run(*sft.parse(arguments))
    assert trainer is not None
    (counts,) = trainer.screenings.values()
    assert f"kept {8 * len(items)} of {8 * len(items)}" in "\n".join(counts.lines())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    assert (tmp_path / "model" / "model.safetensors").is_file()
