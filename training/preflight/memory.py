"""What a GPU must hold, estimated from the model's real parameters and how they are sharded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from ..refusals import ConfigError

GIB = 1024**3

Kind = Literal["none", "DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3"]


@dataclass(frozen=True)
class Sharding:
    """What is spread over ``processes``, each with a GPU of its own."""

    kind: Kind
    processes: int

    def __str__(self) -> str:
        if self.kind == "none":
            return "one process"
        return f"{self.kind} over {self.processes} processes"


def launched(trainer: Any) -> Sharding:
    """How this process was launched."""
    state = trainer.accelerator.state
    if trainer.is_deepspeed_enabled:
        return _zero(state.deepspeed_plugin.zero_stage, state.num_processes)
    if trainer.is_fsdp_enabled:
        return Sharding("FSDP2", state.num_processes)
    return _plain(state.num_processes)


def configured(path: str) -> Sharding:
    """How ``accelerate launch --config_file path`` would launch it.

    Raises:
        ConfigError: no such file, or no accelerate config.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"no accelerate config {path} (looked in {file.absolute().parent}); "
            "`accelerate config --config_file FILE` writes one"
        )
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        processes = int(found["num_processes"])
        kind = str(found["distributed_type"])
        stage = int((found.get("deepspeed_config") or {}).get("zero_stage", 2))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"{path} is no accelerate config ({said}); "
            "`accelerate config --config_file FILE` writes one"
        ) from error
    if kind == "DEEPSPEED":
        return _zero(stage, processes)
    return Sharding("FSDP2", processes) if kind == "FSDP" else _plain(processes)


def _zero(stage: int, processes: int) -> Sharding:
    kinds: dict[int, Kind] = {1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3"}
    return Sharding(kinds[stage], processes) if stage in kinds else _plain(processes)


def _plain(processes: int) -> Sharding:
    return Sharding("DDP" if processes > 1 else "none", processes)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. Kernels, fragmentation and communication come on top.

    Attributes:
        parameters, trainable: of the whole model, in numbers.
        gathered: what is put together for the layer at work, where weights are sharded.
        activations: of one micro-batch at the longest row.
    """

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def memory(model: nn.Module, args: Any, longest: int, sharding: Sharding) -> Memory:
    """Estimate from ``model``'s parameters, in the number and kind they are loaded in.

    FSDP2 holds what is trained in float32; ZeRO holds a float32 copy of it beside the optimizer's
    state where it trains in half precision.

    Args:
        longest: tokens of the longest row.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    count = sum(weight.numel() for weight in trained)
    half = args.bf16 or args.fp16
    kind, processes = sharding.kind, max(sharding.processes, 1)
    held = count * 4 if kind == "FSDP2" else sum(map(_bytes, trained))
    still = sum(map(_bytes, frozen))
    state = held * _states(str(getattr(args.optim, "value", args.optim)))
    gradients = held * (2 if kind == "DDP" else 1)  # DDP reduces them in buckets of their size
    if kind.startswith("ZeRO") and half:
        held, gradients, state = count * 2, count * 2, count * 12
    whole = held + still
    if kind in ("FSDP2", "ZeRO-3"):
        held, still, gradients = held // processes, still // processes, gradients // processes
    if kind == "ZeRO-2":
        gradients //= processes
    if kind not in ("none", "DDP"):
        state //= processes
    return Memory(
        parameters=count + sum(weight.numel() for weight in frozen),
        trainable=count,
        weights=held + still,
        gradients=gradients,
        optimizer=int(state),
        gathered=_largest(model, 2 if half else 4) if whole > held + still else 0,
        activations=_activations(model, args, longest),
    )


def _bytes(weight: nn.Parameter) -> int:
    return weight.numel() * weight.element_size()


def _states(optimizer: str) -> float:
    """Bytes that an optimizer holds for each byte of a parameter."""
    if optimizer in ("sgd", "adafactor", "lomo", "adalomo"):
        return 0
    both = 1 if "lion" in optimizer or optimizer in ("rmsprop", "adagrad") else 2
    return both * (0.25 if "8bit" in optimizer else 0.125 if "4bit" in optimizer else 1)


def _largest(model: nn.Module, width: int) -> int:
    """Two of the largest units that are gathered at a time: the one at work, and the next."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    lists = [one for one in base.modules() if isinstance(one, nn.ModuleList) and len(one)]
    layers = max(lists, key=lambda one: sum(w.numel() for w in one.parameters()), default=[])
    units = [*layers, base.get_input_embeddings(), base.get_output_embeddings()]
    return 2 * width * max(sum(w.numel() for w in unit.parameters()) for unit in units)


def _activations(model: nn.Module, args: Any, longest: int) -> int:
    config = model.config.get_text_config()
    tokens = longest * args.per_device_train_batch_size
    width = 2 if args.bf16 or args.fp16 else next(model.parameters()).element_size()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # What a layer keeps for its backward pass; checkpointing keeps its input and one layer's whole.
    layer = tokens * width * (10 * config.hidden_size + 4 * wide)
    kept = tokens * width * config.hidden_size * config.num_hidden_layers
    return kept + layer if args.gradient_checkpointing else layer * config.num_hidden_layers
