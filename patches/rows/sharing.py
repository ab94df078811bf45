"""Rows of paths that see one another's earlier chunks.

Such a path's row is everything above it, the tokens of its siblings that its chunk sees, its own.
When it sees more it gets another row with a longer head; own tokens never move between slots.

Touches the same as ``launch.py``. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Req

from ...engine.sharing import Run
from ...engine.tree import State
from .branch import Branch, Scratch, path_request, scratch_request
from .launch import extend
from .slots import SlotPool


def _foreign(run: Run) -> array[int]:
    ids = array("q")
    for kid, count in run.seen:
        ids += kid.tokens[:count]
    return ids


def _head(pool: SlotPool, branch: Branch, run: Run) -> torch.Tensor:
    """Slots of all that the first token of ``run`` sees."""
    assert branch.node.parent is not None and branch.slots is not None
    above: Branch = branch.node.parent.handle
    siblings = [pool.own(kid.handle, count) for kid, count in run.seen]
    head = torch.cat([pool.visible(above), *siblings, branch.slots])
    assert len(head) == run.base + run.start, "a row rests on tokens that are not written"
    return head


@dataclass
class ChunkRow:
    """Writes a run of a path that does not end in a sample.

    Attributes:
        above: ids of everything above the path, as long as the block is open.
    """

    branch: Branch
    run: Run
    above: array[int]
    starts: bool = field(default=False, init=False)
    writes_only: bool = field(default=True, init=False)

    def tokens(self, pool: SlotPool) -> int:
        return self.run.end - self.run.start

    def open(self, pool: SlotPool) -> Req:
        run = self.run
        ids = self.above + _foreign(run) + run.node.tokens[: run.end]
        req = scratch_request(self.branch, ids, run.delta)
        extend(req, run.base + run.start, len(ids))
        pool.bind(req, prefix_len=run.base + run.start, protected=len(ids))
        return req

    def settle(self, pool: SlotPool, req: Req, own: torch.Tensor) -> None:
        pool.fill(req, _head(pool, self.branch, self.run))
        assert self.branch.slots is not None
        self.branch.slots = torch.cat([self.branch.slots, own])

    def undo(self) -> None:
        pass


@dataclass
class ShareRow:
    """Starts a path, or puts it into a row again in which it sees more of its siblings.

    A policy may hold it back: its siblings wait for it in no row, so they leave room.
    """

    branch: Branch
    run: Run
    starts: bool = field(default=True, init=False)
    writes_only: bool = field(default=False, init=False)
    _before: tuple[Any, ...] | None = field(default=None, init=False)

    def tokens(self, pool: SlotPool) -> int:
        return self.run.end - self.run.start

    def open(self, pool: SlotPool) -> Req:
        branch, node, run = self.branch, self.branch.node, self.run
        old = branch.req
        self._before = old, node.base, node.delta, branch.shared
        node.base, node.delta, branch.shared = run.base, run.delta, _foreign(run)
        # The result of the old row's last step may still be on its way: it stays that request's.
        req = path_request(branch)
        if old is not None:
            req.logprob = old.logprob
            req.logprob_start_len = -1
        branch.req = req
        extend(req, run.base + run.start, run.base + run.end)
        pool.bind(req, prefix_len=run.base + run.start, protected=run.base)
        node.stale = None
        node.state = State.RUNNING
        return req

    def settle(self, pool: SlotPool, req: Req, own: torch.Tensor) -> None:
        branch = self.branch
        pool.fill(req, _head(pool, branch, self.run))
        branch.slots = None
        assert self._before is not None
        old = self._before[0]
        if old is not None:
            old.multiverse = Scratch(0)  # no row of the path any more

    def undo(self) -> None:
        if self._before is not None:
            branch, node = self.branch, self.branch.node
            branch.req, node.base, node.delta, branch.shared = self._before
            node.state = State.SHARING
            self._before = None


__all__ = ["ChunkRow", "ShareRow"]
