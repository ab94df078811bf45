"""``torch_cpu``: the real SGLang engine on any CPU, for laptops and CI.

An out-of-tree SGLang platform over SGLang's own CPU device class. Every operation runs in its
native torch form, so it needs no compiled kernels and is exact, not fast. It is used only when
asked for: ``SGLANG_PLATFORM=torch_cpu``.
"""

import os

NAME = "torch_cpu"


def activate() -> str | None:
    """The platform class for SGLang's discovery, or None unless it was asked for by name."""
    if os.environ.get("SGLANG_PLATFORM") == NAME:
        return "sglang_multiverse.platform.torch_cpu.TorchCpuPlatform"
    return None
