"""When memory runs out: whole trees are retracted, and computed anew from their text.

The part of the coordinator that takes KV away and brings it back. A replay lays the whole tree out
as segments, each an ordinary causal row (``rows/launch.py``) or, where the attention backend knows
segments, all in one row, so the KV is what it was. A prompt in the middle of its prefill waits.
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req, ScheduleBatch

from ...engine.cache_key import cache_key
from ...engine.tree import State
from ...layout import Segment, layout_of, segments
from ...structure import Trace
from ..reporting.metrics import Observer
from ..rows.branch import Branch, branch_of
from ..rows.launch import Replay, ReplayRow, Resume, Row, pieces
from ..rows.slots import SlotPool
from .adapters import adapters_of, fits
from .prefix_cache import adopt


class Pressure:
    """Retraction and replay, mixed into the coordinator: its state, and its moves between states
    (``_seeds``, ``_queue_first``, ``_join_if_ready``, ``_tear_down``)."""

    scheduler: Any
    pool: SlotPool
    observer: Observer
    trees: list[Branch]
    queue: list[Row]
    replays: list[Branch]
    replaying: Replay | None
    by_segments: bool
    _stopped: list[Branch]
    contained: Any

    def retract(self, root: Branch) -> None:
        """Take all KV of a tree away; it is computed anew, exactly, when there is room."""
        req, tree = root.req, root.tree
        assert req is not None
        root.catch_up()
        again = root in self.replays  # stock code retracts row by row, and says so for each
        self._release(root)
        for node in tree.nodes():
            node.stale = None
            if node.state is State.RUNNING:
                shares = tree.share_every is not None and node.parent is not None
                node.state = State.SHARING if shares else State.RESUMING
            if node.handle is not None:
                node.handle.asked = 0
        if not again:
            req.retraction_count += 1
            self.observer.retracted()
        self.replays.append(root)
        self.replays.sort(key=arrival)

    def retract_all(self) -> None:
        """Every tree, as a pause for new weights asks."""
        for root in [*self.trees]:
            if root not in self.replays and not root.tree.over:
                self.retract(root)

    def relieve(self, batch: ScheduleBatch) -> tuple[list[Req], float, list[Req]] | None:
        """Make memory for a decode step by retracting the youngest requests, trees as wholes.

        Returns what ``ScheduleBatch.retract_decode`` does, or None to leave it to stock code: no
        tree holds KV, and no prompt is in the middle of its prefill.
        """
        trees = [root for root in self.trees if root not in self.replays]
        # A prompt in the middle of its prefill holds KV too, and no row: it goes on, others wait.
        chunked = self.scheduler.chunked_req is not None
        if not trees and not chunked:
            return None
        retracted: list[Req] = []
        aborted: list[Req] = []
        units: list[Any] = [*trees, *(r for r in batch.reqs if self._is_plain(r))]
        units.sort(key=arrival)
        kept = list(range(len(batch.reqs)))
        first = True
        while first or not batch.check_decode_mem(selected_indices=kept):
            if len(units) <= (0 if chunked else 1):
                break
            first = False
            youngest = units.pop()
            if isinstance(youngest, Branch):
                self.retract(youngest)
            else:
                batch.release_req(batch.reqs.index(youngest), len(kept))
                retracted.append(youngest)
            kept = [i for i in kept if self._stays(batch.reqs[i], retracted)]
        if units and not batch.check_decode_mem(selected_indices=kept):
            last = units.pop()
            if isinstance(last, Branch):
                self._tear_down(last, out_of_memory())
            else:
                last.to_finish = out_of_memory()
                batch.release_req(batch.reqs.index(last), 0, offload_kv=False)
                aborted.append(last)
            kept = [i for i in kept if self._stays(batch.reqs[i], [*retracted, *aborted])]
        batch.filter_batch(keep_indices=kept)
        ratio = self.scheduler.new_token_ratio_tracker.estimate_new_token_ratio_after_retract(
            batch.reqs
        )
        return retracted, ratio, aborted

    @staticmethod
    def _is_plain(req: Req) -> bool:
        branch = branch_of(req)
        return req.beam_group is None and (branch is None or not branch.tree.forked)

    @staticmethod
    def _stays(req: Req, gone: list[Req]) -> bool:
        branch = branch_of(req)
        if branch is not None and branch.tree.forked:
            return branch.node.state is State.RUNNING
        return req not in gone

    def _make_room(self, head: Branch) -> None:
        """``head`` waits and nothing runs: retract the youngest other tree, or give it up."""
        others = [root for root in self.trees if root is not head and root not in self.replays]
        if others:
            self.retract(others[-1])
        else:
            self._tear_down(head, out_of_memory())

    def _chunk_starves(self, running_batch: ScheduleBatch) -> bool:
        """Whether the next chunk of the prompt that is being computed would find no memory. Stock
        code launches it all the same: what was there when the prompt was let in may have gone to
        forks, joins and, in mixed chunks, to decoding."""
        scheduler = self.scheduler
        req = scheduler.chunked_req
        if req is None:
            return False
        left = len(req.full_untruncated_fill_ids) - req.extend_end
        need = min(left, scheduler.chunked_prefill_size)
        if scheduler.is_mixed_chunk:
            need += len(running_batch.reqs)
        return bool(need > self.pool.free_tokens)

    def _make_room_for_chunk(self, running_batch: ScheduleBatch) -> bool:
        """Wait for what runs to free memory, or take it; False when nobody else has any."""
        last = self.scheduler.last_batch
        if running_batch.is_empty() and (last is None or last.is_empty()):
            holders = [root for root in self.trees if root not in self.replays]
            if not holders:
                return False
            with self.contained(holders[-1]):
                self.retract(holders[-1])
        return True

    def _stuck(self, running_batch: ScheduleBatch) -> bool:
        """Whether nothing else will run that could free rows or memory."""
        scheduler = self.scheduler
        last = scheduler.last_batch
        return (
            running_batch.is_empty()
            and (last is None or last.is_empty())
            and scheduler.chunked_req is None
        )

    def _begin_replay(self, running_batch: ScheduleBatch) -> bool:
        """Queue the oldest tree without KV, if there is room for it."""
        root = self.replays[0]
        written = root.tree.written()
        nodes = sum(1 for _ in root.tree.nodes())
        # A few steps for every row, or the tree would be retracted again at once.
        need = written + 4 * (nodes + len(running_batch.reqs)) + 8
        others = adapters_of(self.trees, self.replays)
        if (
            need > self.pool.free_tokens
            or not self.pool.free_rows
            or not fits(self.scheduler, root, others, running_batch)
        ):
            if self._stuck(running_batch):
                self._make_room(root)
            return False
        self.replays.pop(0)
        assert root.req is not None
        root.req.time_stats.set_forward_entry_time()
        tokens, trace, starts = root.tree.trace(written_only=True)
        runs, place = in_order(trace, root.tree.share_every)
        slots = torch.zeros(len(tokens), dtype=torch.int64, device=self.pool.rows.device)
        replay = self.replaying = Replay(root, tokens, starts, slots, place=place)
        if root.cacheable:
            # What is cached belongs to the cache, and only the trunk can say so of its slots.
            limit = len(root.tree.root.tokens) - root.tree.root.pending
            found = adopt(self.scheduler.tree_cache, root, cache_key(tokens, runs), limit)
            replay.cached = replay.written = len(found)
            slots[: len(found)] = found
            if not root.req.retraction_count:
                root.req.cached_tokens += len(found)
        self.observer.replay_started(root, written - replay.cached)
        chunk = self.scheduler.chunked_prefill_size
        size = chunk if chunk and chunk > 0 else self.scheduler.max_prefill_tokens
        if self.by_segments:
            replay.layout = runs
            runs = [Segment(0, len(tokens), 0, ())]
        self.queue += [
            ReplayRow(root, replay, piece)
            for run in runs
            for piece in pieces(run, size, replay.cached)
        ]
        self._end_replay()
        return True

    def _end_replay(self) -> None:
        """When every token is written, hand the slots to the nodes and put them back to work."""
        replay = self.replaying
        if replay is None or replay.written < len(replay.tokens):
            return
        self.replaying = None
        starts = replay.starts
        replay.root.protected = replay.cached
        for node, start in starts.items():
            keep = len(node.tokens)
            if node.state is State.RESUMING:
                keep -= node.pending
            node.handle.slots = replay.of(start, start + keep).clone()
        rows: list[Row] = []
        for node in starts:
            if node.state is State.RESUMING:
                rows.append(Resume(node.handle))
            elif node.state is State.FORKED:
                rows += self._seeds(node.handle)
        self._queue_first(rows)
        for node in list(starts):
            if node.state is State.FORKED:
                self._join_if_ready(node)

    def _release(self, root: Branch) -> None:
        """Take a tree's rows out of the queue and its KV out of the pool.

        Raises:
            Exception: the first that freeing a node gave twice; all others have been freed.
        """
        mine = [row for row in self.queue if row.branch.tree is root.tree]
        holders = [*self._branches(root)]
        holders += [kid.handle for row in mine if isinstance(row, Resume) for kid in row.kids]
        self.queue = [row for row in self.queue if row.branch.tree is not root.tree]
        self.replays = [other for other in self.replays if other is not root]
        self._stopped = [branch for branch in self._stopped if branch.tree is not root.tree]
        if self.replaying is not None and self.replaying.root is root:
            self.pool.free(self.replaying.slots[self.replaying.cached : self.replaying.written])
            self.replaying = None
        failed: list[Exception] = []
        for branch in holders:
            if branch.req is not None:
                branch.req.is_retracted = True
            try:
                self.pool.drop(branch)
            except Exception:
                try:
                    self.pool.drop(branch)  # half done, perhaps; it may be begun again
                except Exception as error:
                    failed.append(error)
        if failed:
            raise failed[0]

    def _branches(self, root: Branch) -> Iterable[Branch]:
        return [node.handle for node in root.tree.nodes() if node.handle is not None]


def in_order(trace: Trace, share_every: int | None) -> tuple[list[Segment], torch.Tensor | None]:
    """The segments of a text in an order to compute them in, and where each token comes in it; None
    for text order."""
    runs = segments(trace, share_every=share_every)
    rank = None if share_every is None else layout_of(trace, share_every=share_every).rank
    if rank is None:
        return runs, None
    runs.sort(key=lambda run: rank[run.start])
    place = torch.empty(trace.length, dtype=torch.int64)
    at = 0
    for run in runs:
        size = run.end - run.start
        place[run.start : run.end] = torch.arange(at, at + size)
        at += size
    return runs, place


def out_of_memory() -> Any:
    return FINISH_ABORT(
        "The request does not fit the KV cache even with all others retracted; lower "
        "max_new_tokens or serve with a larger --mem-fraction-static.",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )


def arrival(unit: Any) -> tuple[tuple[int, int], str]:
    """By priority (``priority.py``), then by arrival."""
    req = unit.req if isinstance(unit, Branch) else unit
    return getattr(req, "multiverse_arrival", (0, 0)), req.rid
