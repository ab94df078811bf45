"""A row from which nothing can be sampled any more ends its text, and not the server.

A grammar that has come to its end while ``min_new_tokens`` forbids the end of text leaves no token
at all; SGLang then samples from nothing, which on a CPU raises in the scheduler. Here the grammar
wins: the row may end. Target: ``Sampler._preprocess_logits``, the last place before sampling.
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.plugins.hook_registry import HookType

from ..active import coordinator
from ..hooks import Hook


def _preprocess(logits: torch.Tensor, sampler: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    sampling_info = kwargs.get("sampling_info") or args[1]
    active = coordinator()
    penalties = sampling_info.penalizer_orchestrator
    if active is None or sampling_info.grammars is None or not _both(sampling_info, penalties):
        return logits
    empty = torch.isneginf(logits.amax(-1))
    ends = torch.tensor(active.ends, device=logits.device)
    logits[:, ends] = logits[:, ends].masked_fill(empty[:, None], 0.0)
    return logits


def _both(sampling_info: Any, penalties: Any) -> bool:
    return any(sampling_info.grammars) and (
        sampling_info.acc_additive_penalties is not None
        or (penalties is not None and penalties.is_required)
    )


HOOKS = (
    Hook(
        "sglang.srt.layers.sampler.Sampler._preprocess_logits",
        HookType.AFTER,
        _preprocess,
        ("self", "logits", "sampling_info"),
    ),
)
