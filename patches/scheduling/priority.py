"""``--enable-priority-scheduling``: who goes first, and who gives way.

Stock code (``PrefillAdder.preempt_to_schedule``, asked when ``--max-running-requests`` rows are
taken, not when memory is short) releases single rows of the running batch and
counts only what these may still write; a tree gives way as a whole, with what its parked paths
hold. Touches ``PrefillAdder`` and its memory budget. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import sys
from typing import Any

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS

from ..rows.branch import Branch, branch_of
from .pressure import arrival


def standing(scheduler: Any, req: Req) -> int:
    """The place of a request's priority: lower is served first; 0 where priorities do not count."""
    if not scheduler.enable_priority_scheduling:
        return 0
    priority, low_first = req.priority, scheduler.schedule_low_priority_values_first
    if priority is None:  # what Scheduler._set_or_validate_priority will make of it
        priority = sys.maxsize if low_first else -sys.maxsize - 1
    return int(priority if low_first else -priority)


def outranked(scheduler: Any, root: Branch) -> bool:
    """Whether a request in the queue goes before ``root``, which waits to be computed anew."""
    if not scheduler.enable_priority_scheduling:
        return False
    assert root.req is not None
    own = standing(scheduler, root.req)
    return any(standing(scheduler, req) < own for req in scheduler.waiting_queue)


def in_tree(req: Req) -> Branch | None:
    """The trunk of the tree that ``req`` is a row of, if that tree has forked."""
    branch = branch_of(req)
    return None if branch is None or not branch.tree.forked else branch.root


def preempt(active: Any, adder: Any, req: Req) -> bool:
    """Make room for ``req``, as stock code does, with trees as units.

    Returns:
        Whether it can be scheduled now. If not, nothing has been changed.
    """
    scheduler, batch = active.scheduler, adder.running_batch
    rows: dict[Any, list[Req]] = {root: [] for root in active.trees if root not in active.replays}
    for running in batch.reqs:
        if running.finished() or running in adder.preempt_list:
            continue
        root = in_tree(running)
        if root is None:
            rows[running] = [running]
        elif root in rows:
            rows[root].append(running)
    offset = adder._get_running_request_total_token_offset
    missing = (
        len(req.full_untruncated_fill_ids)
        - req.prefix_len
        + min(req.sampling_params.max_new_tokens, CLIP_MAX_NEW_TOKENS)
        + adder._request_slot_reserve_for_req(req)
        - adder.rem_total_tokens
    )
    chosen: list[Any] = []
    threshold = adder.priority_scheduling_preemption_threshold
    for unit in sorted(rows, key=arrival, reverse=True):
        if not rows[unit]:
            continue  # stock code asks when rows are short, and this one would free none
        other = unit.req if isinstance(unit, Branch) else unit
        if standing(scheduler, other) - standing(scheduler, req) <= threshold:
            break
        chosen.append(unit)
        missing -= sum(offset(row) for row in rows[unit])
        if isinstance(unit, Branch):
            missing -= sum(active.pool.owned(branch) for branch in active._branches(unit))
        if missing <= 0:
            break
    if not chosen or missing > 0:
        return False
    plain = [unit for unit in chosen if not isinstance(unit, Branch)]
    for unit in chosen:
        adder.memory_budget.total_offset -= sum(offset(row) for row in rows[unit])
        if isinstance(unit, Branch):
            active.retract(unit)
        else:
            batch.release_req(batch.reqs.index(unit), len(batch.reqs) - len(plain))
    batch.filter_batch(keep_indices=[i for i, row in enumerate(batch.reqs) if row not in plain])
    adder.preempt_list.extend(plain)
    return True
