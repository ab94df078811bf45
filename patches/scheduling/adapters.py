"""LoRA adapters of trees: in use from the first fork or replay until the request ends.

Stock code counts the adapters of the running batch, and a batch may name at most
``--max-loras-per-batch`` of them, the base model included. A tree whose paths are all parked or
queued has no row there for a moment, and its rows come back without asking. Reads
``LoRAManager.validate_lora_batch``. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..rows.branch import Branch


def adapters_of(trees: Iterable[Branch], without_kv: Iterable[Branch]) -> set[str | None]:
    """Ids of the adapters (None: the base model) that ``trees`` will name in coming batches.

    ``without_kv`` are those of them that :func:`fits` is asked about before they get rows.
    """
    waiting = {id(root) for root in without_kv}
    return {root.req.lora_id for root in trees if root.req is not None and id(root) not in waiting}


def fits(scheduler: Any, root: Branch, others: set[str | None], running_batch: Any) -> bool:
    """Whether the adapter of ``root`` can be in a batch with those of ``others`` and all rows."""
    if not scheduler.enable_lora:
        return True
    assert root.req is not None
    reqs = [root.req, *(req for req in running_batch.reqs if not req.finished())]
    if scheduler.chunked_req is not None:
        reqs.append(scheduler.chunked_req)
    manager = scheduler.tp_worker.model_runner.lora_manager
    return bool(manager.validate_lora_batch(others | {req.lora_id for req in reqs}))
