"""The ``multiverse`` attention backend, offered to SGLang under that name.

Touches ``ATTENTION_BACKEND_CHOICES`` and ``ATTENTION_BACKENDS``, the choices of SGLang's flags and
its registry. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

NAME = "multiverse"
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

    return build(model_runner)


def asked(server_args: Any) -> bool:
    """Whether the arguments name this backend."""
    return any(getattr(server_args, field) == NAME for field in _FIELDS)


def knows_segments(scheduler: Any) -> bool:
    """Whether the scheduler's model computes a text with finished blocks in one row."""
    runner = scheduler.tp_worker.model_runner
    return bool(runner.prefill_attention_backend_str == NAME)
