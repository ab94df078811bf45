"""Rows that fork, join and replay put into a forward batch.

One extend batch may hold rows that read slots which other rows of the same batch write, because
the attention backend saves K and V before it attends. So a fork (the end of the goal and every
seed) is one forward, a join (the ends of the paths and the conclusion's seed) another, and a whole
text with finished blocks is a list of ordinary causal rows, one per segment; over the
``multiverse`` attention backend one row.

Touches ``ScheduleBatch.init_new`` and ``prepare_for_extend``, which the prefill scheduler calls the
same way. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch

from ...engine.tree import Node, State
from ...layout import Segment, extend_ranges
from .branch import Branch, path_request, scratch_request
from .penalties import restore
from .slots import SlotPool


class Row(Protocol):
    """One row to be. Rows are launched in queue order; a row may rest on all before it."""

    branch: Branch

    @property
    def starts(self) -> bool:
        """Whether a new live path begins with this row."""
        ...

    @property
    def writes_only(self) -> bool:
        """Whether its row only writes KV, and is given back after one forward."""
        ...

    def tokens(self, pool: SlotPool) -> int:
        """How many tokens it will extend; 0 when there is nothing left to do."""
        ...

    def open(self, pool: SlotPool) -> Req:
        """Make or reuse the request object and bind its row."""
        ...

    def settle(self, pool: SlotPool, req: Req, own: torch.Tensor) -> None:
        """Write the row's head and take over the slots just allocated, in this order: what fails
        has taken nothing."""
        ...

    def undo(self) -> None:
        """The row will not be launched after all: as before :meth:`open`."""
        ...


class LaunchError(RuntimeError):
    """A batch of rows could not be built; nothing of it has been launched.

    Attributes:
        failed: the row whose request cannot go on.
    """

    def __init__(self, failed: Row):
        super().__init__("rows could not be launched")
        self.failed = failed


def _written(branch: Branch) -> int:
    """Row length of what is written of the node and everything above it."""
    assert branch.slots is not None
    return branch.node.base + len(branch.slots)


@dataclass
class Seed:
    """Starts a path. The first one launched of a block also writes what is left of the goal."""

    branch: Branch
    starts: bool = field(default=True, init=False)
    writes_only: bool = field(default=False, init=False)

    def _parent(self) -> Branch:
        assert self.branch.node.parent is not None
        parent: Branch = self.branch.node.parent.handle
        return parent

    def tokens(self, pool: SlotPool) -> int:
        return self.branch.node.row_len - _written(self._parent())

    def open(self, pool: SlotPool) -> Req:
        node = self.branch.node
        req = self.branch.req = path_request(self.branch)
        parent = self._parent()
        prefix_len = _written(parent) + parent.ahead
        extend(req, prefix_len, node.row_len)
        pool.bind(req, prefix_len=prefix_len, protected=node.base)
        parent.ahead = node.base - _written(parent)
        node.state = State.RUNNING
        return req

    def settle(self, pool: SlotPool, req: Req, own: torch.Tensor) -> None:
        parent = self._parent()
        assert parent.slots is not None
        lead = len(own) - len(self.branch.node.tokens)
        pool.fill(req, torch.cat([pool.visible(parent), own[:lead]]))
        if lead:
            parent.slots = torch.cat([parent.slots, own[:lead]])
            parent.ahead = 0

    def undo(self) -> None:
        self._parent().ahead = 0
        self.branch.req = None
        self.branch.node.state = State.QUEUED


@dataclass
class Tail:
    """Writes the end of a closed path; where paths share, that of a goal."""

    branch: Branch
    starts: bool = field(default=False, init=False)
    writes_only: bool = field(default=True, init=False)

    def tokens(self, pool: SlotPool) -> int:
        return self.branch.node.row_len - _written(self.branch)

    def open(self, pool: SlotPool) -> Req:
        node = self.branch.node
        req = scratch_request(self.branch, self.branch.above() + node.tokens, node.delta)
        prefix_len = _written(self.branch)
        extend(req, prefix_len, node.row_len)
        pool.bind(req, prefix_len=prefix_len, protected=node.row_len)
        return req

    def settle(self, pool: SlotPool, req: Req, own: torch.Tensor) -> None:
        pool.fill(req, pool.visible(self.branch))
        assert self.branch.slots is not None
        self.branch.slots = torch.cat([self.branch.slots, own])

    def undo(self) -> None:
        pass


@dataclass
class Resume:
    """Puts a node back into a row: after a join, with the slots of its ``kids``; after a replay."""

    branch: Branch
    kids: list[Node] = field(default_factory=list)
    starts: bool = field(default=False, init=False)
    writes_only: bool = field(default=False, init=False)
    _context: array[int] | None = field(default=None, init=False)

    def tokens(self, pool: SlotPool) -> int:
        return self.branch.node.pending

    def open(self, pool: SlotPool) -> Req:
        branch, node = self.branch, self.branch.node
        prefix_len = node.row_len - node.pending
        req = branch.req
        if req is None:
            req = branch.req = path_request(branch)
        else:
            have = len(req.origin_input_ids) + len(req.output_ids) - node.base
            req.output_ids.extend(node.tokens[have:])
        req.skip_radix_cache_insert = True
        req.logprob_start_len = -1
        req.already_computed = prefix_len
        protected = branch.protected if branch.is_trunk else node.base
        extend(req, prefix_len, node.row_len)
        pool.bind(req, prefix_len=prefix_len, protected=protected)
        self._context, branch.context = branch.context, None
        node.state = State.RUNNING
        return req

    def settle(self, pool: SlotPool, req: Req, own: torch.Tensor) -> None:
        branch = self.branch
        head = torch.cat([pool.visible(branch), *(kid.handle.slots for kid in self.kids)])
        assert len(head) == branch.node.row_len - branch.node.pending
        pool.fill(req, head)
        branch.slots = None
        for kid in self.kids:
            kid.handle.slots = None

    def undo(self) -> None:
        self.branch.node.state = State.RESUMING
        if self._context is not None:
            # The paths' ends, launched again before it, see what the node held before the join.
            self.branch.context, self._context = self._context, None


@dataclass
class Replay:
    """Recomputes the KV of a whole tree.

    Attributes:
        slots: of its written tokens, in the order in which they are computed.
        cached: how many of them the prefix cache had, and owns.
        written: how many have KV.
        place: index into ``slots`` of every token of the text; None where that is text order.
        layout: the segments of the text, where one row holds them all.
    """

    root: Branch
    tokens: array[int]
    starts: dict[Node, int]
    slots: torch.Tensor
    cached: int = 0
    written: int = 0
    layout: list[Segment] | None = None
    place: torch.Tensor | None = None

    def of(self, start: int, end: int) -> torch.Tensor:
        """Slots of the tokens ``[start, end)`` of the text."""
        return self.slots[start:end] if self.place is None else self.slots[self.place[start:end]]


@dataclass
class ReplayRow:
    """Writes (a piece of) one segment of a replay."""

    branch: Branch
    replay: Replay
    segment: Segment
    starts: bool = field(default=False, init=False)
    writes_only: bool = field(default=True, init=False)

    def tokens(self, pool: SlotPool) -> int:
        return self.segment.end - self.segment.start

    def open(self, pool: SlotPool) -> Req:
        segment, tokens = self.segment, self.replay.tokens
        prefix_len = segment.prefix_len
        ids = array("q")
        for start, end in (*segment.prefix, (segment.start, segment.end)):
            ids += tokens[start:end]
        delta, layout = prefix_len - segment.position, self.replay.layout
        req = scratch_request(self.branch, ids, delta, layout)
        extend(req, prefix_len, len(ids))
        pool.bind(req, prefix_len=prefix_len, protected=len(ids))
        return req

    def settle(self, pool: SlotPool, req: Req, own: torch.Tensor) -> None:
        replay = self.replay
        parts = [replay.of(a, b) for a, b in self.segment.prefix]
        pool.fill(req, torch.cat([pool.empty, *parts]))
        end = replay.written + len(own)
        replay.slots[replay.written : end] = own
        replay.written = end

    def undo(self) -> None:
        pass


def pieces(segment: Segment, size: int, written: int = 0) -> list[Segment]:
    """Cut what is left of a segment into runs of at most ``size`` tokens.

    Args:
        written: tokens of the text that have KV already.
    """
    made = []
    for start in range(max(segment.start, written), segment.end, size):
        prefix = extend_ranges(segment.prefix, segment.start, start)
        end = min(start + size, segment.end)
        made.append(Segment(start, end, segment.position + start - segment.start, prefix))
    return made


def extend(req: Req, prefix_len: int, end: int) -> None:
    """Set the token range the next forward computes."""
    req.refresh_fill_ids()
    assert len(req.full_untruncated_fill_ids) == end, "row and token ids disagree"
    req.prefix_len = prefix_len
    req.extend_end = end


def launch(scheduler: Any, pool: SlotPool, rows: list[Row]) -> tuple[ScheduleBatch, list[Req]]:
    """Build the extend batch of ``rows`` and settle their slots.

    Returns:
        The batch, and the scratch requests whose rows must be freed once it has been launched.

    Raises:
        LaunchError: something failed; no row or slot is held that was not before.
    """
    reqs: list[Req] = []
    for row in rows:
        try:
            reqs.append(row.open(pool))
        except Exception as error:
            row.undo()
            _close(pool, rows, reqs)
            raise LaunchError(row) from error
    for req in reqs:
        req.is_retracted = False
    batch = ScheduleBatch.init_new(
        reqs,
        scheduler.req_to_token_pool,
        scheduler.token_to_kv_pool_allocator,
        scheduler.tree_cache,
        scheduler.model_config,
        scheduler.enable_overlap,
        scheduler.spec_algorithm,
    )
    try:
        batch.prepare_for_extend()
        batch.decoding_reqs = None
        restore(batch, scheduler.enable_overlap)
        slots = batch.out_cache_loc.to(torch.int64).split([req.extend_len for req in reqs])
    except Exception as error:
        if batch.out_cache_loc is not None:
            pool.free(batch.out_cache_loc.to(torch.int64))
        _close(pool, rows, reqs)
        raise LaunchError(rows[0]) from error
    before = _state(rows)
    for row, req, own in zip(rows, reqs, slots, strict=True):
        try:
            row.settle(pool, req, own)
        except Exception as error:
            for owner, name, value in before:
                setattr(owner, name, value)
            pool.free(torch.cat(slots))
            _close(pool, rows, reqs)
            raise LaunchError(row) from error
    scratch = [req for row, req in zip(rows, reqs, strict=True) if row.writes_only]
    for req in scratch:
        req.is_retracted = True  # stock code skips the result of such a row
        # The row outlives this forward by a step, the slots in it perhaps not: it owns none.
        req.kv.kv_allocated_len = req.kv.kv_committed_len = req.kv.cache_protected_len = 0
    return batch, scratch


def _state(rows: list[Row]) -> list[tuple[Any, str, Any]]:
    """What settling ``rows`` changes of nodes and replays, as it is now."""
    kept: list[tuple[Any, str, Any]] = []
    for row in rows:
        if isinstance(row, ReplayRow):
            kept.append((row.replay, "written", row.replay.written))
            continue
        touched = [row.branch]
        if isinstance(row, Seed) and row.branch.node.parent is not None:
            touched.append(row.branch.node.parent.handle)
        if isinstance(row, Resume):
            touched += [kid.handle for kid in row.kids]
        kept += [(branch, "slots", branch.slots) for branch in touched]
    return kept


def _close(pool: SlotPool, rows: list[Row], reqs: list[Req]) -> None:
    """Give back the page-table rows of ``reqs``, which own no slots yet."""
    for row, req in zip(rows, reqs, strict=False):
        if req.kv.holds_kv:
            pool.release_row(req)
        row.undo()


__all__ = [
    "LaunchError",
    "Replay",
    "ReplayRow",
    "Resume",
    "Row",
    "Seed",
    "Tail",
    "extend",
    "launch",
    "pieces",
]
