"""Two processes compute what one does: DDP and FSDP2 directly, DDP through the trainer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_multiverse.training.attention import enable_multiverse_attention

from . import distributed_worker
from .architectures import packed_and_padded, tiny

TIMEOUT = 540  # seconds, on a machine that does other work besides
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def launch(task: str, out: Path, repository: Path) -> Any:
    """Run the worker in two processes and load what it saved."""
    command = [sys.executable, "-m", *TORCHRUN, "-m", "tests.training.distributed_worker"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, task, str(out)],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that a worker that hangs ends with its launcher
    )
    try:
        printed, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"two processes did not end in {TIMEOUT} s:\n{process.communicate()[0]}")
    assert process.returncode == 0, printed
    return torch.load(out / f"{task}.pt")


@pytest.fixture(scope="module")
def forward(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Any:
    return launch("forward", tmp_path_factory.mktemp("forward"), repository)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Any:
    return launch("train", tmp_path_factory.mktemp("train"), repository)


@pytest.mark.parametrize("attention", ["sdpa", "multiverse"])
@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", distributed_worker.ARCHITECTURES)
def test_two_processes_have_the_logits_and_gradients_of_one(forward, name, mode, attention):
    model = enable_multiverse_attention(tiny(name))
    logits, loss = distributed_worker.losses(model, packed_and_padded().given)
    loss.backward()
    found = forward[f"{name} {mode} {attention}"]
    differences = {"logits": (found["logits"] - logits).abs().max().item()}
    for key, weight in model.named_parameters():
        scale = weight.grad.abs().max().clamp(min=1)
        difference = (found["gradients"][key] - weight.grad).abs().max() / scale
        differences[key] = difference.item()
    print(f"{name} {mode} {attention}: logits {differences['logits']:.1e}", end=", ")
    print(f"gradients, relative to the greatest: {max(differences.values()):.1e}")
    assert differences.keys() == {"logits", *found["gradients"]}
    assert max(differences.values()) <= 1e-5
    assert found["isolated"]


def test_two_processes_train_as_one_does_on_twice_the_batch(trained, tmp_path):
    alone = distributed_worker.trainer(tmp_path, 4)
    alone.train()
    expected, found = distributed_worker.outcome(alone), trained["whole"]
    assert trained["processes"] == 2
    assert trained["wrapper"] == "DistributedDataParallel"
    assert len(found["losses"]) == distributed_worker.STEPS
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["losses"][-1] < found["losses"][0]
    for key, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][key], weight, atol=1e-5, rtol=0)


def test_two_processes_go_on_from_their_checkpoint(trained):
    whole, resumed = trained["whole"], trained["resumed"]
    assert resumed["losses"] == whole["losses"]
    for key, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][key], weight), key
