"""Weights on their way to a server: whole, under a checkpoint's names, from one process or two."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import AutoModelForCausalLM

from sglang_multiverse.training.grpo.engine import EngineClient, EngineError
from sglang_multiverse.training.grpo.handover import Handover
from sglang_multiverse.training.grpo.rollout import MultiverseRollout
from sglang_multiverse.training.grpo.weights import (
    ShardedError,
    architecture,
    in_buckets,
    save_policy,
    whole_weights,
)

from .architectures import tiny
from .http_stub import Answer, answering

ARCHITECTURES = ("qwen2", "qwen3_moe", "gemma3")


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    yield from answering()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_have_the_names_that_a_checkpoint_gives_them(name: str, tmp_path: Path) -> None:
    """Tied ones once, experts one by one."""
    model = tiny(name)
    model.save_pretrained(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    found = dict(whole_weights(model))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_saved_policy_is_a_checkpoint(tmp_path: Path) -> None:
    model = tiny("qwen3_moe")
    save_policy(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ == architecture(model)
    for (name, one), (other, two) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(one, two)


def test_adapters_are_merged_in_a_copy() -> None:
    model = tiny("qwen2")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight)
    found = dict(whole_weights(adapted))
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    assert changed
    assert all("q_proj.weight" in name for name in changed)
    assert architecture(adapted) == "Qwen2ForCausalLM"


def test_shards_that_cannot_be_gathered_are_refused_with_the_reason(tokenizer: Any) -> None:
    model = tiny("qwen2")
    inner = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(inner)
    model.add_module("shard", inner)
    with pytest.raises(ShardedError, match=r"sharded by FSDP 1.*fsdp_version: 2"):
        list(whole_weights(model))
    accelerator = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    trainer: Any = SimpleNamespace(
        accelerator=accelerator, state=SimpleNamespace(global_step=0), model=model
    )
    with pytest.raises(ShardedError, match=r"DeepSpeed's.*FSDP2"):
        MultiverseRollout("http://x", tokenizer).sync(trainer)


def test_auto_sends_large_policies_by_disk(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglang_multiverse.training.grpo.handover.AUTO_BYTES", 1000)
    server = Server()
    Handover(EngineClient(serve(server))).give(tiny("qwen2"), "v1")
    assert server.paths == DISK


def test_buckets_hold_everything_and_not_too_much() -> None:
    weights = [(str(i), torch.zeros(size)) for i, size in enumerate((10, 10, 100, 5, 5, 5))]
    made = list(in_buckets(weights, most=80))
    assert [[name for name, _ in bucket] for bucket in made] == [
        ["0", "1"],
        ["2"],  # alone over the bound
        ["3", "4", "5"],
    ]


class Server:
    """What a server answers to requests of a handover; those in ``refuse`` with 400."""

    def __init__(self, *refuse: str):
        self.refuse = refuse
        self.asked: list[tuple[str, Any]] = []
        self.opened = False

    def __call__(self, path: str, body: Any) -> tuple[int, Any]:
        path = path.partition("?")[0]
        self.asked.append((path, body))
        if path == "/server_info":
            return 200, {"tp_size": 2, "dp_size": 1, "pp_size": 1}
        if path in self.refuse:
            return 400, {"success": False, "message": "not\nhere"}
        if path == "/begin_weight_update" and self.opened:
            self.opened = False
            return 400, {"success": False, "message": "a weight-update session is already open"}
        return 200, {"success": True}

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked if path != "/server_info"]


SESSION = ["/begin_weight_update", "/update_weights_from_tensor", "/end_weight_update"]
DISK = ["/update_weights_from_disk", "/flush_cache"]


def test_weights_go_through_memory_to_every_process_of_the_server(serve: Any) -> None:
    server = Server()
    handover = Handover(EngineClient(serve(server)))
    model = tiny("qwen2")
    handover.give(model, "v1")
    assert server.paths == [*SESSION, "/flush_cache"]
    (body,) = (body for path, body in server.asked if path == SESSION[1])
    assert body["weight_version"] == "v1"
    first, second = body["serialized_named_tensors"]
    assert first == second
    sent = dict(pickle.loads(base64.b64decode(first)))
    expected = dict(whole_weights(model))
    assert sent.keys() == expected.keys()
    assert all(torch.equal(sent[key], value) for key, value in expected.items())
    assert (handover.used, len(handover.seconds)) == ("memory", 1)


def test_a_session_that_a_dead_trainer_left_open_is_closed(serve: Any) -> None:
    server = Server()
    server.opened = True
    Handover(EngineClient(serve(server)), "memory").give(tiny("qwen2"), "v1")
    assert server.paths[:4] == [SESSION[0], SESSION[2], *SESSION[:2]]


def test_where_memory_is_refused_disk_takes_over(serve: Any, tmp_path: Path) -> None:
    server = Server(SESSION[1])
    handover = Handover(EngineClient(serve(server)), folder=tmp_path)
    with pytest.warns(UserWarning, match="was refused: not here; weights go over by disk"):
        handover.give(tiny("qwen2"), "v1")
    assert server.paths == [*SESSION, *DISK]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handover.give(tiny("qwen2"), "v2")
    assert server.paths[5:] == DISK
    folders = {body["model_path"] for path, body in server.asked if path == DISK[0]}
    assert all(Path(folder).parent == tmp_path for folder in folders)
    assert list(tmp_path.iterdir()) == []
    assert handover.used == "disk"


def test_a_way_that_was_chosen_is_kept(serve: Any) -> None:
    handover = Handover(EngineClient(serve(Server(SESSION[1]))), "memory")
    with pytest.raises(EngineError, match=r"not here \(weights=memory; disk is another way\)"):
        handover.give(tiny("qwen2"), "v1")
    with pytest.raises(ValueError, match="weights='wire': one of auto, memory"):
        Handover(EngineClient("http://x"), "wire")


def test_a_server_that_does_not_join_the_group_says_why(serve: Any) -> None:
    handover = Handover(
        EngineClient(serve(Server("/init_weights_update_group")), timeout=5), "distributed"
    )
    with pytest.raises(EngineError, match="init_weights_update_group was refused: not here"):
        handover.give(tiny("qwen2"), "v1")


def test_replicas_take_weights_from_disk_alone(serve: Any) -> None:
    def replicas(path: str, body: Any) -> tuple[int, Any]:
        if path == "/server_info":
            return 200, {"tp_size": 1, "dp_size": 2, "pp_size": 1}
        return 200, {"success": True}

    url = serve(replicas)
    with pytest.raises(EngineError, match=r"2 replicas of 1 stages.*weights=disk"):
        Handover(EngineClient(url), "memory").give(tiny("qwen2"), "v1")
    with pytest.warns(UserWarning, match="by disk from here on"):
        Handover(EngineClient(url)).give(tiny("qwen2"), "v1")


# Two processes.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """What a server got of policies that two gloo processes share by FSDP2."""
    out = tmp_path_factory.mktemp("fsdp2")
    run = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", *run, "-m", "tests.training.grpo_worker", str(out)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"two processes did not end:\n{process.communicate()[0]}")
    assert process.returncode == 0, printed
    return out


@pytest.mark.parametrize("name", ["qwen2", "qwen3_moe"])
def test_a_policy_shared_by_fsdp2_is_gathered(shared: Path, name: str) -> None:
    expected = dict(whole_weights(tiny(name)))
    by_memory = torch.load(shared / name / "0-step-0.pt")
    by_disk = load_file(shared / name / "0-step-0.safetensors")
    for found in (by_memory, by_disk):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_refusal_ends_every_process(shared: Path) -> None:
    """None is left waiting in a collective for one that raised."""
    first, second = torch.load(shared / "said.pt")
    assert first == second
    assert len(first) == 4
    assert first[0] == "recorder refuses (weights=memory; disk is another way)"
    assert "serves Other, the policy is a Qwen2ForCausalLM" in first[1]
