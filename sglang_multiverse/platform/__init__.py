"""``torch_cpu``: the real SGLang engine on any CPU, for laptops and CI.

An out-of-tree SGLang platform over SGLang's own CPU device class. Every operation runs in its
native torch form, so it needs no compiled kernels and is exact, not fast. It is used only when
asked for: ``SGLANG_PLATFORM=torch_cpu``.
"""

import os

NAME = "torch_cpu"


def not_asked_for(device: str | None) -> str | None:
    """What to say where ``device`` (None: whatever there is) can only be served by this platform
    and it was not chosen; else None.

    SGLang chooses a platform when it is first imported, so it is too late to choose it then.
    """
    if os.environ.get("SGLANG_PLATFORM") or os.environ.get("SGLANG_USE_CPU_ENGINE"):
        return None
    from ..devices import accelerator

    if accelerator() if device is None else device != "cpu":
        return None
    return (
        f"to serve on a CPU set SGLANG_PLATFORM={NAME} before SGLang is imported: in the shell, or "
        "by os.environ in the first lines of the program; `multiverse serve` does it by itself"
    )


def activate() -> str | None:
    """The platform class for SGLang's discovery, or None unless it was asked for by name."""
    if os.environ.get("SGLANG_PLATFORM") == NAME:
        return "sglang_multiverse.platform.torch_cpu.TorchCpuPlatform"
    return None
