"""Positions and segments of the rows of a forward.

Targets: ``ForwardBatch.init_new``, which sets ``positions`` from row lengths for every backend and
CUDA graph, and ``EagerRunner.load_batch``, which moves a batch into static buffers, field by field.
SGLang has no per-request position offset, and no text in a row that is not causal; what the
``multiverse`` attention backend needs besides travels as an attribute of the batch. Verified on
SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sglang.srt.plugins.hook_registry import HookType

from ...attention.batch import Siblings
from ...attention.cascade_plan import ALONE
from ...attention.plan import Extend
from ...layout import Segment, positions
from ..active import coordinator
from ..hooks import Hook
from .branch import ENDLESS, branch_of, forked, layout_of

#: A causal row.
ONE_RUN = [Segment(0, ENDLESS, 0, ())]


def _positions(result: Any, cls: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    active = coordinator()
    if active is None or not batch.reqs or result.positions is None:
        return result
    deltas = active.note_forward(batch.reqs)
    if deltas is None:
        return result
    kept = result.positions
    if not result.forward_mode.is_extend():
        if any(deltas):
            shift = torch.tensor(deltas, dtype=kept.dtype, device=kept.device)
            result.positions = kept - shift
        if active.cascades and result.forward_mode.is_decode():
            result.multiverse_siblings = _siblings(batch.reqs)
        return result
    prefixes, lengths = result.extend_prefix_lens_cpu, result.extend_seq_lens_cpu
    layouts: list[list[Segment] | None] = [layout_of(req) for req in batch.reqs]
    if any(deltas) or any(layout is not None for layout in layouts):
        parts = [
            np.arange(start - delta, start - delta + length)
            if layout is None
            else positions(layout, start, start + length)
            for start, length, delta, layout in zip(prefixes, lengths, deltas, layouts, strict=True)
        ]
        where = torch.from_numpy(np.concatenate(parts))
        result.positions = where.to(device=kept.device, dtype=kept.dtype)
    if active.by_segments:
        # Rows at a fork or a join are causal; by plan they cost what they compute and no prefix.
        runs = [
            ONE_RUN if layout is None and forked(req) else layout
            for req, layout in zip(batch.reqs, layouts, strict=True)
        ]
        if any(run is not None for run in runs):
            result.multiverse_extends = [
                Extend(start, start + length, run)
                for start, length, run in zip(prefixes, lengths, runs, strict=True)
            ]
    return result


def _siblings(reqs: list[Any]) -> Siblings:
    """Which rows are paths of one block, and how much of their rows is what they all see."""
    groups, shared = [], []
    for req in reqs:
        branch = branch_of(req)
        parent = None if branch is None else branch.node.parent
        groups.append(ALONE if parent is None else id(parent))
        shared.append(0 if parent is None else parent.row_len)
    return Siblings(groups, shared)


def _carry(result: Any, runner: Any, forward_batch: Any, *args: Any, **kwargs: Any) -> Any:
    for name in ("multiverse_extends", "multiverse_siblings"):
        value = getattr(forward_batch, name, None)
        if value is not None:
            setattr(result, name, value)
    return result


HOOKS = (
    Hook(
        "sglang.srt.model_executor.runner.eager_runner.EagerRunner.load_batch",
        HookType.AFTER,
        _carry,
        ("self", "forward_batch"),
    ),
    Hook(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
        HookType.AFTER,
        _positions,
        ("batch", "model_runner"),
    ),
)
