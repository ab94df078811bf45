"""What SGLang needs to be told on the device at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

#: KV tokens on a CPU; without a bound SGLang takes most of the machine's memory.
CPU_TOKENS = 20_000
_TOKENS_FLAG = "--max-total-tokens"


def accelerator() -> str | None:
    """Name of an accelerator that SGLang serves on, or None."""
    import torch

    if torch.backends.mps.is_available():  # SGLang's kernels there lack what fork and join need
        return None
    return (
        str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else None
    )


def platform_flags(device: str | None) -> list[str]:
    """Server flags for ``device``; on a CPU those that SGLang needs there."""
    if device is not None:
        return []
    return ["--device", "cpu", "--attention-backend", "torch_native", "--sleep-on-idle"]


def memory_flags(device: str | None, given: Sequence[str]) -> list[str]:
    """On a CPU a bound on the KV tokens, unless ``given`` holds one."""
    if device is not None or any(flag.split("=")[0] == _TOKENS_FLAG for flag in given):
        return []
    return [_TOKENS_FLAG, str(CPU_TOKENS)]


def server_python() -> list[str]:
    """The interpreter that a server runs in. As with ``sglang serve``, the working folder is none
    of its places for modules: an ``html.py`` there would stand in for Python's own."""
    return [sys.executable, "-P"]


def platform_env(device: str | None) -> dict[str, str]:
    """Environment for ``device``; on a CPU it chooses the ``torch_cpu`` platform.

    Compute threads that spin for one another on a busy machine slow every step down; half the cores
    compute unless ``OMP_NUM_THREADS`` says otherwise.
    """
    if device is not None:
        return {}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    return {"SGLANG_PLATFORM": "torch_cpu", "OMP_NUM_THREADS": threads}
