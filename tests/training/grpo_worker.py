"""Two processes that share a policy by FSDP2 and hand its weights over, started by
``test_grpo_weights.py`` through torchrun: ``-m tests.training.grpo_worker OUT``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import AutoTokenizer

from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.training.grpo.engine import EngineClient, EngineError
from sglang_multiverse.training.grpo.rollout import MultiverseRollout

from .architectures import tiny
from .distributed_worker import shard


class Recorder(EngineClient):
    """A server that takes weights, and may refuse them."""

    def __init__(self, out: Path, architecture: str, *, refuses: bool = False):
        super().__init__("http://recorder")
        self.out = out
        self.architecture = architecture
        self.refuses = refuses

    def architectures(self) -> list[str]:
        return [self.architecture]

    def model_path(self) -> str:
        return "elsewhere"

    def share_every(self) -> int | None:
        return None

    def tensor_parallel(self) -> int:
        return 1

    def update_tensors(self, buckets: Any, version: str, ranks: int = 1) -> None:
        taken = []
        for bucket in buckets:
            if self.refuses:
                raise EngineError("recorder refuses")
            taken += bucket
        torch.save(dict(taken), self.out / f"{version}.pt")

    def update_weights(self, folder: Path, version: str) -> None:
        (self.out / f"{version}.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()
        )


def main(out: Path) -> None:
    torch.set_num_threads(1)
    state = PartialState(cpu=True, backend="gloo")
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    said = []
    for name, kind in (("qwen2", "Qwen2ForCausalLM"), ("qwen3_moe", "Qwen3MoeForCausalLM")):
        policy = shard(tiny(name))
        accelerator = SimpleNamespace(
            distributed_type=DistributedType.FSDP,
            is_main_process=state.is_main_process,
            process_index=state.process_index,
            unwrap_model=lambda model: model,
        )
        trainer: Any = SimpleNamespace(
            accelerator=accelerator, model=policy, state=SimpleNamespace(global_step=0)
        )
        folder = out / name
        folder.mkdir(exist_ok=True)
        for way in ("memory", "disk"):
            client = Recorder(folder, kind)
            rollout = MultiverseRollout(client, tokenizer, weights=way)
            rollout.sync(trainer)
        rollout = MultiverseRollout(Recorder(folder, kind, refuses=True), tokenizer, weights="auto")
        try:
            rollout.sync(trainer)
        except EngineError as error:
            said.append(str(error))
        rollout = MultiverseRollout(Recorder(folder, "Other"), tokenizer)
        try:
            rollout.sync(trainer)
        except EngineError as error:
            said.append(str(error))
    gathered: list[Any] = [None, None]
    dist.all_gather_object(gathered, said)
    if state.is_main_process:
        torch.save(gathered, out / "said.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
