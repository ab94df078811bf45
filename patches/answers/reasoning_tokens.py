"""``usage.reasoning_tokens`` counts the whole thought: every path, injected tokens too.

Targets: ``SchedulerBatchResultProcessor._maybe_update_reasoning_tokens`` (stock code counts a row's
own samples, and takes an answer without a thought for one) and
``_GenerationStreamAccumulator.accept`` (through which every answer leaves, in canonical order).
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.plugins.hook_registry import HookType
from sglang.srt.runtime_context import get_serving

from ..active import coordinator
from ..hooks import Hook
from .parsers import NAME
from .thought import Count, opened_by


def count(req: Req) -> None:
    """Bring ``req.reasoning_tokens`` up to what will be sent of ``req``."""
    active = coordinator()
    if active is None or get_serving().reasoning_parser != NAME:
        return
    counted = req.__dict__.get("multiverse_thought")
    if counted is None:
        counted = Count(opened=opened_by(req.origin_input_ids, active.dialect))
        req.multiverse_thought = counted
    req.reasoning_tokens = counted.take(req.output_ids_through_stop, active.dialect)


def _update(original: Any, processor: Any, req: Req, next_token_id: Any) -> None:
    if coordinator() is None or get_serving().reasoning_parser != NAME:
        original(processor, req, next_token_id)


def _accept(accumulator: Any, *, req: Req) -> None:
    count(req)


_COMPONENTS = "sglang.srt.managers.scheduler_components"

HOOKS = (
    Hook(
        f"{_COMPONENTS}.batch_result_processor.SchedulerBatchResultProcessor"
        "._maybe_update_reasoning_tokens",
        HookType.AROUND,
        _update,
        ("self", "req", "next_token_id"),
    ),
    Hook(
        f"{_COMPONENTS}.output_streamer._GenerationStreamAccumulator.accept",
        HookType.BEFORE,
        _accept,
        ("self", "req"),
    ),
)
