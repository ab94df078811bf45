"""Positions: row index minus one integer per request.

Target: ``ForwardBatch.init_new``, which sets ``positions`` from row lengths for every backend and
CUDA graph. SGLang has no per-request position offset. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.plugins.hook_registry import HookType

from ..active import coordinator
from ..hooks import Hook


def _positions(result: Any, cls: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    active = coordinator()
    if active is None or not batch.reqs or result.positions is None:
        return result
    deltas = active.note_forward(batch.reqs)
    if deltas is None:
        return result
    positions = result.positions
    shift = torch.tensor(deltas, dtype=positions.dtype, device=positions.device)
    if result.forward_mode.is_extend():
        lengths = torch.tensor(result.extend_seq_lens_cpu, device=positions.device)
        shift = torch.repeat_interleave(shift, lengths)
    result.positions = positions - shift
    return result


HOOKS = (
    Hook(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
        HookType.AFTER,
        _positions,
        ("batch", "model_runner"),
    ),
)
