"""Hooks on the admission of new prompts: which adapters are in use, who gives way.

Targets: ``Scheduler.can_schedule_lora_req`` and ``PrefillAdder.preempt_to_schedule``; both look at
single rows of the running batch, and SGLang has no seam for what a tree holds outside them.
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from ..active import coordinator
from ..hooks import Hook
from .adapters import adapters_of
from .priority import preempt


def _can_schedule_lora(original: Any, scheduler: Any, req: Any, running_loras: Any) -> Any:
    active = coordinator()
    if active is None or not active.trees:
        return original(scheduler, req, running_loras)
    return original(scheduler, req, running_loras | adapters_of(active.trees, active.replays))


def _preempt(original: Any, adder: Any, req: Any) -> Any:
    active = coordinator()
    if active is None or not active.trees:
        return original(adder, req)
    return preempt(active, adder, req)


HOOKS = (
    Hook(
        "sglang.srt.managers.scheduler.Scheduler.can_schedule_lora_req",
        HookType.AROUND,
        _can_schedule_lora,
        ("self", "req", "running_loras"),
    ),
    Hook(
        "sglang.srt.managers.schedule_policy.PrefillAdder.preempt_to_schedule",
        HookType.AROUND,
        _preempt,
        ("self", "req"),
    ),
)
