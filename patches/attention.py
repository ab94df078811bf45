"""The ``multiverse`` attention backend, offered to SGLang under that name.

Touches ``ATTENTION_BACKEND_CHOICES`` and ``ATTENTION_BACKENDS``, the choices of SGLang's flags and
its registry, and hooks ``DecodeCudaGraphRunner.can_run_graph``, which does not ask a backend
whether a captured graph can express a step. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from ..attention.registry import NAME
from .hooks import Hook

_FIELDS = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")


def offer() -> None:
    """Make the name a choice of ``--attention-backend``."""
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES

    if NAME not in ATTENTION_BACKEND_CHOICES:
        ATTENTION_BACKEND_CHOICES.append(NAME)


def register() -> None:
    """Make the backend known to a process that runs a scheduler."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    register_attention_backend(NAME)(_build)


def _build(model_runner: Any) -> Any:
    from ..attention.registry import build

    return build(model_runner, cascade=cascades(model_runner.server_args))


def cascades(server_args: Any) -> bool:
    """Whether siblings may read the prefix they share once per decode step."""
    settings = getattr(server_args, "_multiverse", None) or {}
    return bool(settings.get("cascade"))


def _can_run_graph(result: bool, runner: Any, forward_batch: Any) -> bool:
    backend = runner.model_runner.attn_backend
    asked = getattr(backend, "can_run_decode_cuda_graph", None)
    return result and (asked is None or bool(asked(forward_batch)))


def asked(server_args: Any) -> bool:
    """Whether the arguments name this backend."""
    return any(getattr(server_args, field) == NAME for field in _FIELDS)


def knows_segments(scheduler: Any) -> bool:
    """Whether the scheduler's model computes a text with finished blocks in one row."""
    runner = scheduler.tp_worker.model_runner
    return bool(runner.prefill_attention_backend_str == NAME)


HOOKS = (
    Hook(
        "sglang.srt.model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner"
        ".can_run_graph",
        HookType.AFTER,
        _can_run_graph,
        ("self", "forward_batch"),
    ),
)
