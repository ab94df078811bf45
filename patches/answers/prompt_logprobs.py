"""Logprobs of a prompt that holds finished blocks.

Target: ``SchedulerLogprobResultProcessor._process_input_token_ids_logprobs``, the last step that
fills ``req.logprob.input_…``. SGLang reads a token's logprob off the row of its left neighbour,
which is not what the first token of a later path, or after a join, follows: no row holds their
context. The engine writes these tokens itself, so they have the entry of any token that it writes.
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from ..hooks import Hook
from ..rows.branch import layout_of
from .stream import forced


def _correct(result: Any, processor: Any, req: Any) -> None:
    layout, logs = layout_of(req), req.logprob
    if layout is None or logs.input_token_logprobs_val is None:
        return
    first = req.logprob_start_len
    for segment in layout[1:]:
        at = segment.start - first
        if not 0 < at < len(logs.input_token_logprobs_val):
            continue
        entry = forced(req.origin_input_ids[segment.start], logs)
        logs.input_token_logprobs_val[at] = entry.value
        if logs.top_logprobs_num > 0:
            logs.input_top_logprobs_val[at] = entry.top_values
            logs.input_top_logprobs_idx[at] = entry.top_tokens
        if logs.token_ids_logprob is not None:
            logs.input_token_ids_logprobs_val[at] = entry.ids_values
            logs.input_token_ids_logprobs_idx[at] = entry.ids_tokens


HOOKS = (
    Hook(
        "sglang.srt.managers.scheduler_components.logprob_result_processor."
        "SchedulerLogprobResultProcessor._process_input_token_ids_logprobs",
        HookType.AFTER,
        _correct,
        ("self", "req"),
    ),
)
