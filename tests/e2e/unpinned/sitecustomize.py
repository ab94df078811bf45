"""Python imports this first where this folder is on ``PYTHONPATH``: host memory is never pinned.

SGLang's LoRA code pins host memory without asking the platform (``lora/layers.py``,
``lora/backend/torch_backend.py``), which torch refuses where there is no device to pin it for.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch


def _unpinned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(make)
    def run(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        return make(*args, **kwargs)

    return run


def _stays(self: torch.Tensor, *args: Any) -> torch.Tensor:
    return self


for name in ("tensor", "zeros"):
    setattr(torch, name, _unpinned(getattr(torch, name)))
torch.Tensor.pin_memory = _stays
