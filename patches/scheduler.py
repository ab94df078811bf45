"""Hooks on the scheduler: the coordinator's five entry points and what must know of its trees.

Targets: ``Scheduler.init_batch_result_processor`` (the last set-up step with tokenizer, pools and
prefix cache in place), ``get_next_batch_to_run``, ``get_new_batch_prefill``,
``_add_request_to_queue``, ``abort_request``, ``pause_generation``, ``is_fully_idle`` and
``SchedulerInvariantChecker._requests_owning_rows``. SGLang has no public seam for a batch that no
queue asked for. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.schedule_batch import NextBatchPlan, ReqKvInfo
from sglang.srt.plugins.hook_registry import HookType

from ..dialect import Dialect
from ..engine.options import EngineOptions
from .coordinator import Coordinator
from .hooks import Hook
from .support import check_scheduler

_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
_CHECKER = "sglang.srt.managers.scheduler_components.invariant_checker.SchedulerInvariantChecker"

#: The coordinator of this process; None until its scheduler is set up.
_active: Coordinator | None = None


def coordinator() -> Coordinator | None:
    return _active


def _set_up(result: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
    global _active
    settings = getattr(scheduler.server_args, "_multiverse", None)
    if settings is None:
        return
    dialect = Dialect.from_tokenizer(scheduler.tokenizer, name=settings.get("dialect"))
    check_scheduler(scheduler)
    _active = Coordinator(scheduler, dialect, EngineOptions(**settings.get("options", {})))
    # A class flag, read-only on the slotted instance.
    type(scheduler.output_streamer).has_additional_customized_info = True


def _next_batch(original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    if _active is not None:
        _active.settle()
    return original(scheduler, *args, **kwargs)


def _prefill(original: Any, scheduler: Any, running_batch: Any) -> Any:
    if _active is not None:
        decided, batch = _active.next_batch(running_batch)
        if decided:
            return NextBatchPlan(batch_to_run=batch, running_batch=running_batch)
    return original(scheduler, running_batch)


def _add_request(original: Any, scheduler: Any, req: Any, is_retracted: bool = False) -> None:
    if _active is not None and _active.admit(req):
        return
    original(scheduler, req, is_retracted)


def _abort(original: Any, scheduler: Any, recv_req: Any) -> Any:
    if _active is not None:
        _active.abort(
            lambda rid: recv_req.abort_all or rid.startswith(recv_req.rid), recv_req.abort_message
        )
    return original(scheduler, recv_req)


def _pause(original: Any, scheduler: Any, recv_req: Any) -> Any:
    """Stock code retracts what runs; parked paths hold KV of the old weights too."""
    if _active is None or recv_req.mode != "retract":
        return original(scheduler, recv_req)
    _active.settle()
    for batch in (scheduler.running_batch, scheduler.last_batch):
        if batch is not None:
            batch.filter_batch()
    result = original(scheduler, recv_req)
    _active.retract_all()
    return result


def _idle(result: bool, scheduler: Any, *args: Any, **kwargs: Any) -> bool:
    return result and (_active is None or _active.idle)


def _owners(result: list[Any], checker: Any) -> list[Any]:
    """Add what nodes without a row own, in the form the checker sums up."""
    if _active is None:
        return result
    for rid, tokens in _active.owned():
        kv = ReqKvInfo(kv_allocated_len=tokens)
        result.append(SimpleNamespace(rid=rid, kv=kv, beam_group=None))
    return result


HOOKS = (
    Hook(f"{_SCHEDULER}.init_batch_result_processor", HookType.AFTER, _set_up, ("self",)),
    Hook(
        f"{_SCHEDULER}.get_next_batch_to_run",
        HookType.AROUND,
        _next_batch,
        ("self", "running_batch", "last_batch"),
    ),
    Hook(
        f"{_SCHEDULER}.get_new_batch_prefill", HookType.AROUND, _prefill, ("self", "running_batch")
    ),
    Hook(
        f"{_SCHEDULER}._add_request_to_queue",
        HookType.AROUND,
        _add_request,
        ("self", "req", "is_retracted"),
    ),
    Hook(f"{_SCHEDULER}.abort_request", HookType.AROUND, _abort, ("self", "recv_req")),
    Hook(f"{_SCHEDULER}.pause_generation", HookType.AROUND, _pause, ("self", "recv_req")),
    Hook(f"{_SCHEDULER}.is_fully_idle", HookType.AFTER, _idle, ("self",)),
    Hook(f"{_CHECKER}._requests_owning_rows", HookType.AFTER, _owners, ("self",)),
)
