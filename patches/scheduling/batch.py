"""Hooks on requests and batches.

Targets: ``Req.update_finish_state`` (sees every committed token),
``Req.next_output_finishes_by_length`` (overlap drops a row one token early by it, but a tree's
budget is not a path's),
``ScheduleBatch.filter_batch`` (run every step; drops rows that no longer decode) and
``ScheduleBatch.retract_decode`` (stock code retracts single rows; a tree goes as a whole).
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from ..active import coordinator
from ..hooks import Hook
from ..rows.branch import branch_of, decodes

_REQ = "sglang.srt.managers.schedule_batch.Req"
_BATCH = "sglang.srt.managers.schedule_batch.ScheduleBatch"


def _commit(original: Any, req: Any, new_accepted_len: int = 1) -> None:
    active, branch = coordinator(), branch_of(req)
    if active is None or branch is None:
        original(req, new_accepted_len)
        return
    try:
        active.commit(branch, original, req, new_accepted_len)
    except Exception as error:
        if not branch.is_trunk:
            req.finished_reason = None  # stock code would free what the tree is about to
        active.contain(branch.root, error)


def _finishes_by_length(result: bool, req: Any) -> bool:
    branch = branch_of(req)
    return result and (branch is None or not branch.tree.forked)


def _filter(
    original: Any, batch: Any, reqs_to_exclude: Any = None, keep_indices: Any = None
) -> Any:
    active = coordinator()
    if active is None or not active.engaged or all(decodes(req) for req in batch.reqs):
        return original(batch, reqs_to_exclude, keep_indices)
    if keep_indices is None:
        excluded = (
            []
            if reqs_to_exclude is None
            else reqs_to_exclude
            if isinstance(reqs_to_exclude, list)
            else [reqs_to_exclude]
        )
        keep_indices = [
            i for i, req in enumerate(batch.reqs) if not req.finished() and req not in excluded
        ]
    keep_indices = [i for i in keep_indices if decodes(batch.reqs[i])]
    return original(batch, None, keep_indices)


def _retract(original: Any, batch: Any) -> Any:
    active = coordinator()
    relieved = None
    if active is not None:
        try:
            relieved = active.relieve(batch)
        except Exception as error:
            active.give_way(error)
            batch.filter_batch()
    return original(batch) if relieved is None else relieved


HOOKS = (
    Hook(f"{_REQ}.update_finish_state", HookType.AROUND, _commit, ("self", "new_accepted_len")),
    Hook(f"{_REQ}.next_output_finishes_by_length", HookType.AFTER, _finishes_by_length, ("self",)),
    Hook(
        f"{_BATCH}.filter_batch",
        HookType.AROUND,
        _filter,
        ("self", "reqs_to_exclude", "keep_indices"),
    ),
    Hook(f"{_BATCH}.retract_decode", HookType.AROUND, _retract, ("self",)),
)
