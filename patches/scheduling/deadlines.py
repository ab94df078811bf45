"""Deadlines and the bound on the queue hold for requests, trees without a row included.

Targets: ``Scheduler._poll_timeout_aborts`` (looks at the waiting queue and at the rows of batches;
a tree whose paths are all parked, or that waits for its replay, is in neither) and
``Scheduler._abort_on_queued_limit`` (counts the waiting queue alone). Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

from sglang.srt.environ import envs
from sglang.srt.managers.io_struct import AbortReq
from sglang.srt.plugins.hook_registry import HookType

from ..active import coordinator
from ..hooks import Hook

_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"


def _overdue(rid: str, message: str) -> AbortReq:
    reason = {
        "type": "abort",
        "status_code": HTTPStatus.SERVICE_UNAVAILABLE,
        "message": message,
    }
    return AbortReq(rid=rid, abort_message=message, finished_reason=reason)


def _timeouts(result: list[AbortReq], scheduler: Any) -> list[AbortReq]:
    active = coordinator()
    if active is None or not active.trees:
        return result
    now, known = time.perf_counter(), {abort.rid for abort in result}
    running, waiting = envs.SGLANG_REQ_RUNNING_TIMEOUT.get(), envs.SGLANG_REQ_WAITING_TIMEOUT.get()
    queued = {id(root) for root in active.replays}
    for root in active.trees:
        req = root.req
        if req is None or req.rid in known or root.tree.over:
            continue
        stats = req.time_stats
        if running > 0 and 0 < stats.forward_entry_time < now - running:
            result.append(_overdue(req.rid, "Request running timeout reached."))
        elif id(root) in queued and waiting > 0 and 0 < stats.wait_queue_entry_time < now - waiting:
            result.append(_overdue(req.rid, "Request waiting timeout reached."))
    return result


def _queue_limit(original: Any, scheduler: Any, recv_req: Any) -> Any:
    """Requests that wait for a replay take places in the queue."""
    active, bound = coordinator(), scheduler.max_queued_requests
    if active is None or bound is None or not active.replays:
        return original(scheduler, recv_req)
    scheduler.max_queued_requests = bound - len(active.replays)
    try:
        return original(scheduler, recv_req)
    finally:
        scheduler.max_queued_requests = bound


HOOKS = (
    Hook(f"{_SCHEDULER}._poll_timeout_aborts", HookType.AFTER, _timeouts, ("self",)),
    Hook(
        f"{_SCHEDULER}._abort_on_queued_limit", HookType.AROUND, _queue_limit, ("self", "recv_req")
    ),
)
