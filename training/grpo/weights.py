"""A policy's weights as a server's checkpoint holds them: adapters merged, shards gathered."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

#: Names that wrappers of torch put into those of the weights.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")

#: Bytes of one message to a server, which holds a bucket beside its own weights.
BUCKET = 256 << 20

Named = tuple[str, Tensor]


class ShardedError(ValueError):
    """Weights are spread over processes in a way they cannot be gathered from."""


def merged(policy: Any) -> Any:
    """``policy`` without adapters.

    Those of a PEFT model are merged in a copy, which takes the model's memory once more: merged in
    place and taken out again, they would wear the frozen weights down by rounding.

    Raises:
        ShardedError: adapters over sharded weights, or shards that are no DTensors.
    """
    if any(isinstance(part, FullyShardedDataParallel) for part in policy.modules()):
        raise ShardedError(
            "the policy is sharded by FSDP 1, which cannot gather one weight at a time; set "
            "fsdp_version: 2 (training/recipes/accelerate/fsdp2.yaml)"
        )
    if not isinstance(policy, PeftModel):
        return policy
    if any(isinstance(weight, DTensor) for weight in policy.parameters()):
        raise ShardedError(
            "adapters of a policy sharded by FSDP cannot be merged for the server; train them "
            "under plain data parallelism, or train all weights"
        )
    return copy.deepcopy(policy).merge_and_unload()


def whole_weights(policy: Any) -> Iterator[Named]:
    """Every weight once, whole, under the name that checkpoints of its architecture give it.

    Under FSDP2 each is gathered when it is asked for: all processes iterate, and to the end.

    Raises:
        ShardedError: see :func:`merged`.
    """
    model = merged(policy)

    def gathered() -> Iterator[Named]:
        seen: set[int] = set()
        for name, weight in model.state_dict(keep_vars=True).items():
            if id(weight) in seen:  # tied
                continue
            seen.add(id(weight))
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            data = weight.detach()
            yield name, data.full_tensor() if isinstance(data, DTensor) else data

    with torch.no_grad():
        if getattr(model, "_weight_conversions", None) or _is_mixture(model):
            # Experts that are one tensor here are many in a checkpoint, and need be seen together.
            yield from revert_weight_conversion(model, dict(gathered())).items()
        else:
            yield from gathered()


def _is_mixture(model: Any) -> bool:
    return any("expert" in name for name, _ in model.named_modules())


def in_buckets(weights: Iterable[Named], most: int = BUCKET) -> Iterator[list[Named]]:
    """``weights`` in lists of at most ``most`` bytes, or of one."""
    bucket: list[Named] = []
    held = 0
    for name, weight in weights:
        size = weight.numel() * weight.element_size()
        if bucket and held + size > most:
            yield bucket
            bucket, held = [], 0
        bucket.append((name, weight))
        held += size
    if bucket:
        yield bucket


def architecture(policy: Any) -> str:
    """The policy's class, as a checkpoint's config names it."""
    base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    # FSDP2 makes a class of its own above it.
    return next(one for one in type(base).__mro__ if not issubclass(one, FSDPModule)).__name__


def save_policy(policy: Any, folder: Path, weights: Iterable[Named] | None = None) -> None:
    """Write weights and config of ``policy`` into ``folder``.

    Args:
        weights: of :func:`whole_weights`, where they were gathered already.
    """
    kept = {name: weight.cpu().contiguous() for name, weight in weights or whole_weights(policy)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    config = copy.deepcopy(base.config)
    config.architectures = [architecture(policy)]
    config.dtype = base.dtype
    config.save_pretrained(folder)
