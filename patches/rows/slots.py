"""KV slots and page-table rows: the three moves of fork and join.

Touches ``ReqToTokenPool`` rows and the token allocator through the calls SGLang's own allocation
code makes; SGLang offers no call that hands slots from one request to another. Every slot has one
owner: the prefix cache, a live row's ``[cache_protected_len, kv_allocated_len)``, or the ``slots``
of a node without a row. Nothing here copies KV. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Req

from .branch import Branch, fresh_kv


class SlotPool:
    """Slot and row moves on one scheduler's pools."""

    def __init__(self, scheduler: Any):
        self.rows = scheduler.req_to_token_pool
        self.allocator = scheduler.token_to_kv_pool_allocator
        self.tree_cache = scheduler.tree_cache
        self.empty = torch.empty(0, dtype=torch.int64, device=self.rows.device)

    @property
    def free_rows(self) -> int:
        return int(self.rows.available_size())

    @property
    def free_tokens(self) -> int:
        """Tokens that fit now, cached prefixes that nobody uses evicted."""
        return int(self.allocator.available_size() + self.tree_cache.evictable_size())

    def park(self, branch: Branch) -> None:
        """Take the node out of its row: its own slots go to ``branch.slots``, the row is freed."""
        req, node = branch.req, branch.node
        assert req is not None and branch.slots is None
        row = self.rows.req_to_token[req.kv.req_pool_idx]
        own = row[node.base : req.kv.kv_allocated_len].to(torch.int64, copy=True)
        kv = fresh_kv(req)
        self.rows.free_rows([kv.req_pool_idx])
        if branch.is_trunk:
            branch.protected = kv.cache_protected_len
        if node.stale is not None and len(own) > node.stale:
            # A step in flight wrote the KV of the token that has been replaced.
            self.allocator.free(own[node.stale :])
            own = own[: node.stale].clone()
        branch.slots = own

    def own(self, branch: Branch, count: int) -> torch.Tensor:
        """Slots of the node's first ``count`` own tokens, in a row or out of it."""
        if branch.slots is not None:
            return branch.slots[:count]
        assert branch.req is not None
        row, base = self.rows.req_to_token[branch.req.kv.req_pool_idx], branch.node.base
        return row[base : base + count].to(torch.int64, copy=True)

    def visible(self, branch: Branch) -> torch.Tensor:
        """Slots of everything written that a token after ``branch``'s own tokens sees."""
        parts = []
        node: Any = branch.node
        while node is not None:
            slots = node.handle.slots
            assert slots is not None, "a node above a live one has no row"
            parts.append(slots)
            node = node.parent
        return torch.cat(parts[::-1])

    def bind(self, req: Req, *, prefix_len: int, protected: int) -> None:
        """Give ``req`` a row whose first ``prefix_len`` entries :meth:`fill` will write."""
        req.kv.cache_protected_len = protected
        if prefix_len:  # without one, stock allocation gives the row
            assert self.rows.alloc([req]) is not None, "the caller checks for free rows"
            req.kv.kv_allocated_len = req.kv.kv_committed_len = prefix_len

    def fill(self, req: Req, slots: torch.Tensor) -> None:
        """Write the head of the row of ``req``."""
        self.rows.write((req.kv.req_pool_idx, slice(0, len(slots))), slots.to(torch.int32))

    def release_row(self, req: Req) -> None:
        """Give back a row that owns no slot."""
        kv = fresh_kv(req)
        self.rows.free_rows([kv.req_pool_idx])

    def free(self, slots: torch.Tensor) -> None:
        if len(slots):
            self.allocator.free(slots)

    def drop(self, branch: Branch) -> None:
        """Free everything the node owns, in a row or out of it."""
        if branch.live:
            branch.node.stale = None
            self.park(branch)
        if branch.slots is not None:
            self.free(branch.slots[branch.protected :])
            branch.slots = None
        if branch.is_trunk and branch.req is not None:
            branch.protected = 0
            if branch.req.lock is not None:
                self.tree_cache.unlock(branch.req.lock)
                branch.req.lock = None
            self.tree_cache.on_release(branch.req, checkpointed=False)

    def owned(self, branch: Branch) -> int:
        """Tokens whose slots the node owns outside any row."""
        return 0 if branch.slots is None else len(branch.slots) - branch.protected
