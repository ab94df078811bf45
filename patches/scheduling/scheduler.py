"""Hooks on the scheduler: three of the coordinator's five entry points (the others are in
``batch.py``) and what must know of its trees.

Targets: ``Scheduler.init_batch_result_processor`` (the last set-up step with tokenizer, pools and
prefix cache in place), ``get_next_batch_to_run``, ``get_new_batch_prefill``,
``_add_request_to_queue``, ``abort_request``, ``pause_generation``, ``collect_inflight_reqs``
(asked by aborts and by a change of the weights' version), ``is_fully_idle`` and
``SchedulerInvariantChecker._requests_owning_rows``. SGLang has no public seam for a batch that no
queue asked for. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.schedule_batch import NextBatchPlan, ReqKvInfo
from sglang.srt.plugins.hook_registry import HookType
from sglang.srt.utils.hf_transformers_utils import get_tokenizer

from ...dialect import Dialect
from ...engine.options import EngineOptions
from ..active import arm, coordinator
from ..hooks import Hook
from ..support import check_scheduler, share_every
from .coordinator import Coordinator

logger = logging.getLogger(__name__)

_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
_CHECKER = "sglang.srt.managers.scheduler_components.invariant_checker.SchedulerInvariantChecker"


def _set_up(result: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
    settings = getattr(scheduler.server_args, "_multiverse", None)
    if settings is None:
        return
    dialect = Dialect.from_tokenizer(_tokenizer(scheduler), name=settings.get("dialect"))
    check_scheduler(scheduler)
    every = share_every(scheduler)
    options = EngineOptions(**{**settings.get("options", {}), "share_every": every})
    if every is not None:
        logger.warning(
            "share_every=%d: paths see one another after every %d of their own tokens, and hold no "
            "blocks: goals inside paths do not fork",
            every,
            every,
        )
    arm(Coordinator(scheduler, dialect, options))
    # A class flag, read-only on the slotted instance.
    type(scheduler.output_streamer).has_additional_customized_info = True


def _tokenizer(scheduler: Any) -> Any:
    """The scheduler's, or with ``--skip-tokenizer-init`` one read for its tags alone."""
    if scheduler.tokenizer is not None:
        return scheduler.tokenizer
    args = scheduler.server_args
    return get_tokenizer(
        args.tokenizer_path or args.model_path,
        tokenizer_mode=args.tokenizer_mode,
        trust_remote_code=args.trust_remote_code,
        revision=args.revision,
        tokenizer_backend=args.tokenizer_backend,
    )


def _next_batch(original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    active = coordinator()
    if active is not None:
        try:
            active.settle()
        except Exception as error:
            active.give_way(error)
    return original(scheduler, *args, **kwargs)


def _prefill(original: Any, scheduler: Any, running_batch: Any) -> Any:
    active = coordinator()
    if active is not None:
        try:
            decided, batch = active.next_batch(running_batch)
        except Exception as error:
            active.give_way(error)
            decided, batch = True, None
        if decided:
            return NextBatchPlan(batch_to_run=batch, running_batch=running_batch)
    return original(scheduler, running_batch)


def _add_request(original: Any, scheduler: Any, req: Any, is_retracted: bool = False) -> None:
    active = coordinator()
    if active is not None and active.admit(req):
        return
    original(scheduler, req, is_retracted)


def _abort(original: Any, scheduler: Any, recv_req: Any) -> Any:
    active = coordinator()
    if active is not None:
        active.abort(
            lambda rid: recv_req.abort_all or rid.startswith(recv_req.rid), recv_req.abort_message
        )
    return original(scheduler, recv_req)


def _pause(original: Any, scheduler: Any, recv_req: Any) -> Any:
    """Stock code retracts what runs; parked paths hold KV of the old weights too."""
    active = coordinator()
    if active is None or recv_req.mode != "retract":
        return original(scheduler, recv_req)
    active.settle()
    for batch in (scheduler.running_batch, scheduler.last_batch):
        if batch is not None:
            batch.filter_batch()
    result = original(scheduler, recv_req)
    active.retract_all()
    active.settle()  # rows and endings of the result that was read just now
    return result


def _live_reqs(result: set[Any], scheduler: Any) -> set[Any]:
    """Whoever asks for all running requests means trees too: their trunk may be in no batch."""
    active = coordinator()
    if active is None or not active.trees:
        return result
    return result | {root.req for root in active.trees if root.req is not None}


def _idle(
    result: bool, scheduler: Any, for_health_check: bool = False, ignore_waiting: bool = False
) -> bool:
    """A tree that waits for its replay holds nothing: it counts as a request in the queue does."""
    active = coordinator()
    if not result or active is None:
        return result
    return active.holds_nothing if ignore_waiting else active.idle


def _owners(result: list[Any], checker: Any) -> list[Any]:
    """Add what nodes without a row own, in the form the checker sums up."""
    active = coordinator()
    if active is None:
        return result
    for rid, tokens in active.owned():
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
    Hook(f"{_SCHEDULER}.collect_inflight_reqs", HookType.AFTER, _live_reqs, ("self",)),
    Hook(f"{_SCHEDULER}.is_fully_idle", HookType.AFTER, _idle, ("self",)),
    Hook(f"{_CHECKER}._requests_owning_rows", HookType.AFTER, _owners, ("self",)),
)
