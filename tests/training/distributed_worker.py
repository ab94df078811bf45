"""One process of several, started by ``test_distributed.py`` through torchrun.

torchrun --nproc_per_node 2 -m tests.training.distributed_worker forward OUT
accelerate launch --cpu --num_processes 2 -m tests.training.distributed_worker train OUT
"""

from __future__ import annotations

import itertools
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer, PreTrainedModel

from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.factory.exam import messages
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.attention import enable_multiverse_attention
from sglang_multiverse.training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer

from ..core.generate import WORD
from .architectures import packed_and_padded, tiny

ARCHITECTURES = ("qwen2", "qwen3_moe", "gemma3")
STEPS, CHECKPOINT = 4, 2


def shard(model: PreTrainedModel) -> PreTrainedModel:
    """FSDP2 as trainers apply it: each layer, then the whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.base_model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def losses(model: Any, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and a loss summed over all tokens of these rows."""
    logits = model(**given, use_cache=False).logits
    return logits, logits.log_softmax(-1)[..., WORD].sum()


def isolated(model: Any, given: dict[str, torch.Tensor], seen: np.ndarray) -> bool:
    """Whether a changed word changes just the tokens that see it. The processes go in step."""
    words = np.flatnonzero((given["input_ids"][0] >= WORD).numpy())
    apart = True
    with torch.no_grad():
        before = losses(model, given)[0]
        for t in words[np.linspace(0, len(words) - 1, 6).astype(int)]:
            ids = given["input_ids"].clone()
            ids[0, t] = WORD + 6
            after = losses(model, {**given, "input_ids": ids})[0]
            apart &= np.array_equal((before != after).any(-1)[0].numpy(), seen[0, :, t])
    return apart


def forward(out: Path) -> None:
    """Logits, gradients and isolation under DDP and FSDP2, one row of the batch a process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    rows = packed_and_padded()
    mine = {key: value[rank : rank + 1] for key, value in rows.given.items()}
    results: dict[str, Any] = {}
    for name in ARCHITECTURES:
        for mode, attention in itertools.product(("ddp", "fsdp2"), ("sdpa", "multiverse")):
            model = enable_multiverse_attention(tiny(name, attention))
            wrapped = DistributedDataParallel(model) if mode == "ddp" else shard(model)
            logits, loss = losses(wrapped, mine)
            (loss * world).backward()  # both take the mean over processes
            gradients = {
                key: weight.grad.full_tensor()
                if isinstance(weight.grad, DTensor)
                else weight.grad.clone()
                for key, weight in model.named_parameters()
            }
            kept: list[Any] = [None] * world
            dist.all_gather_object(
                kept, (logits.detach(), isolated(wrapped, mine, rows.seen[rank : rank + 1]))
            )
            results[f"{name} {mode} {attention}"] = {
                "logits": torch.cat([one for one, _ in kept]),
                "isolated": all(apart for _, apart in kept),
                "gradients": gradients,
            }
    if rank == 0:
        torch.save(results, out / "forward.pt")
    dist.barrier()
    dist.destroy_process_group()


def trainer(folder: Path, batch_size: int, *, seed: int = 0) -> MultiverseSFTTrainer:
    """A few steps of training; ``seed`` chooses the weights it starts from."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    problems = islice(generate(1, "train", {"sum": 0.7, "nested": 0.3}), 24)
    args = MultiverseSFTConfig(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=batch_size,
        learning_rate=0.05,
        optim="sgd",
        lr_scheduler_type="constant",
        gradient_checkpointing=True,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_steps=CHECKPOINT,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    return MultiverseSFTTrainer(
        tiny("qwen2", vocab_size=-(-len(tokenizer) // 64) * 64, seed=seed, initializer_range=0.05),
        args,
        train_dataset=Dataset.from_list([messages(problem, "parallel") for problem in problems]),
        processing_class=tokenizer,
    )


def outcome(run: MultiverseSFTTrainer) -> dict[str, Any]:
    """Losses step by step, and the weights at the end."""
    logged = [float(entry["loss"]) for entry in run.state.log_history if "loss" in entry]
    model = run.accelerator.unwrap_model(run.model)
    return {"losses": logged, "weights": {k: v.clone() for k, v in model.state_dict().items()}}


def train(out: Path) -> None:
    """Train, then once more from the middle checkpoint, from other weights."""
    whole = trainer(out / "whole", 2)
    whole.train()
    resumed = trainer(out / "resumed", 2, seed=1)
    resumed.train(resume_from_checkpoint=str(out / "whole" / f"checkpoint-{CHECKPOINT}"))
    found = {
        "whole": outcome(whole),
        "resumed": outcome(resumed),
        "processes": whole.accelerator.num_processes,
        "wrapper": type(whole.model_wrapped).__name__,
    }
    if whole.accelerator.is_main_process:
        torch.save(found, out / "train.pt")
    whole.accelerator.wait_for_everyone()


if __name__ == "__main__":
    task, folder = sys.argv[1:]
    {"forward": forward, "train": train}[task](Path(folder))
