"""The coordinator: one per scheduler, it carries trees from fork to join.

It is called at five points of the scheduler's loop (the hooks stand in ``scheduler.py`` and
``batch.py``): :meth:`admit` when a request enters, :meth:`commit` for every sampled token,
:meth:`settle` before a batch is chosen, :meth:`next_batch` when one may be a fork, a join or a
replay, and :meth:`retract` when memory runs out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import (
    FINISH_ABORT,
    FINISH_LENGTH,
    FINISH_MATCHED_TOKEN,
    Req,
    ScheduleBatch,
)

from ..dialect import Dialect
from ..engine.options import EngineOptions, OptionError
from ..engine.tree import Node, Outcome, State, Tree
from ..layout import segments
from .branch import Branch, Scratch, branch_of, delta_of
from .rows import Replay, ReplayRow, Resume, Row, Seed, Tail, launch, pieces
from .slots import SlotPool
from .stream import pull_records, sync_stream

logger = logging.getLogger(__name__)


class Coordinator:
    """Fork, join and replay for the requests of one scheduler.

    Attributes:
        trees: requests whose KV was made under a structured layout, in order of arrival.
        queue: rows waiting to be launched, in dependency order.
        replays: trees without KV (retracted, or a prompt with finished blocks), by arrival.
    """

    def __init__(self, scheduler: Any, dialect: Dialect, options: EngineOptions):
        self.scheduler = scheduler
        self.dialect = dialect
        self.options = options
        self.pool = SlotPool(scheduler)
        self.trees: list[Branch] = []
        self.queue: list[Row] = []
        self.replays: list[Branch] = []
        self.replaying: Replay | None = None
        self._stopped: list[Branch] = []
        self._ending: list[tuple[Branch, Any]] = []
        self._scratch: list[Req] = []
        self._arrivals = 0

    # A request enters.

    def admit(self, req: Req) -> bool:
        """Prepare ``req`` for fork and join; True when the coordinator keeps it from the queue."""
        if isinstance(req.__dict__.get("multiverse"), Scratch):
            return True  # stock code retracted a row that only wrote KV: nothing is left to do
        branch = branch_of(req)
        if branch is not None:
            if not branch.tree.forked:
                return False
            # A stock retraction of one row of a tree: the tree goes as a whole.
            self.retract(branch.root)
            return True
        if not hasattr(req, "multiverse_arrival"):
            self._arrivals += 1
            req.multiverse_arrival = self._arrivals
        if req.finished() or req.to_finish is not None or not self._eligible(req):
            return False
        params = req.sampling_params
        try:
            options = self.options.for_request(params.custom_params)
            if not options.enabled:
                return False
            tree = Tree(req.origin_input_ids, self.dialect, options, params.max_new_tokens)
            if (
                tree.structured_prompt
                and req.return_logprob
                and (0 <= req.logprob_start_len < len(req.origin_input_ids))
            ):
                raise OptionError(
                    "logprobs of a prompt that holds finished parallel blocks are not available; "
                    "leave out logprob_start_len"
                )
        except ValueError as error:
            req.set_finish_with_abort(str(error))
            return False
        params.skip_special_tokens = False  # the canonical text shows its tags
        branch = Branch(tree, tree.root, req=req)
        tree.root.handle = branch
        req.multiverse = branch
        if not tree.structured_prompt:
            return False
        tree.root.state = State.RESUMING
        tree.root.pending = 1
        self._keep(branch)
        self.replays.append(branch)
        req.time_stats.set_wait_queue_entry_time()
        return True

    @staticmethod
    def _eligible(req: Req) -> bool:
        """Constrained, multimodal and session requests, and those that want per-token extras other
        than logprobs, decode sequentially."""
        return (
            req.grammar is None
            and req.input_embeds is None
            and req.positional_embed_overrides is None
            and req.multimodal_inputs is None
            and req.session is None
            and req.session_id is None
            and req.beam_group is None
            and not req.return_hidden_states
            and not req.return_routed_experts
            and not req.return_indexer_topk
            and not req.return_sampling_mask
            and req.sampling_params.max_new_tokens > 0
        )

    # A token has been sampled.

    def commit(
        self, branch: Branch, original: Callable[..., None], req: Req, accepted: int
    ) -> None:
        """Run stock finish checks on the newest token of ``req``, then fork, close or end."""
        tree, node = branch.tree, branch.node
        if tree.over or node.state is not State.RUNNING:
            self._discard(req, accepted)
            return
        if branch.is_trunk:
            self._commit_trunk(branch, original, req, accepted)
            return
        if req.to_finish is not None:
            self.finish(branch.root, req.to_finish)
            req.to_finish = None
            self._discard(req, accepted)
            return
        original(req, accepted)
        reason, req.finished_reason, req.finished_len = req.finished_reason, None, None
        branch.unfilled.append(len(node.tokens))
        outcome = tree.accept(node, req.output_ids[-1])
        if outcome is Outcome.CONTINUE and isinstance(reason, FINISH_MATCHED_TOKEN):
            if reason.matched in (req.sampling_params.stop_token_ids or ()):
                self.finish(branch.root, reason)
                return
            outcome = tree.end_path(node, replace=True)
        elif reason is not None and not isinstance(reason, FINISH_LENGTH | FINISH_MATCHED_TOKEN):
            self.finish(branch.root, reason)
            return
        if node.stale is not None:
            branch.unfilled.pop()  # what was sampled is not what the text says
        if outcome is Outcome.LENGTH:
            self.finish(branch.root, FINISH_LENGTH(length=tree.total))
        elif outcome in (Outcome.FORK, Outcome.END_PATH):
            self._stop(branch)

    def _commit_trunk(
        self, branch: Branch, original: Callable[..., None], req: Req, accepted: int
    ) -> None:
        tree = branch.tree
        original(req, accepted)
        if accepted and req.finished_reason is None:
            outcome = tree.accept(branch.node, req.output_ids[-1])
            if outcome is Outcome.LENGTH:
                req.finished_reason = FINISH_LENGTH(length=len(req.output_ids))
                req.finished_len = len(req.output_ids)
            elif outcome is Outcome.FORK:
                self._keep(branch)
                # From here on its KV is of another layout than its tokens alone would have.
                req.skip_radix_cache_insert = True
                self._stop(branch)
        elif accepted:
            tree.root.append((req.output_ids[-1],), sampled=True)
            tree.root.emitted += 1
            tree.total += 1
        if req.finished():
            tree.over = True
            self._forget(branch)

    @staticmethod
    def _discard(req: Req, accepted: int) -> None:
        for _ in range(accepted):
            req.output_ids.pop()

    def _stop(self, branch: Branch) -> None:
        """The node decodes no more; a step in flight may still compute a sample to throw away."""
        assert branch.req is not None
        branch.req.is_retracted = True
        self._stopped.append(branch)

    def finish(self, root: Branch, reason: Any) -> None:
        """End a tree that is not (only) its trunk; carried out before the next batch."""
        root.tree.end()
        self._ending.append((root, reason))

    def _keep(self, root: Branch) -> None:
        if root not in self.trees:
            self.trees.append(root)
            self.trees.sort(key=_arrival)

    def _forget(self, root: Branch) -> None:
        if root in self.trees:
            self.trees.remove(root)

    # Before a batch is chosen.

    def settle(self) -> None:
        """Carry out what the last results decided: free scratch rows, park, join, end."""
        for req in self._scratch:
            if req.kv.holds_kv:
                self.pool.release_row(req)
        self._scratch.clear()
        stopped, self._stopped = self._stopped, []
        for branch in stopped:
            if not branch.tree.over and branch.live:
                self.pool.park(branch)
        for branch in stopped:
            if branch.tree.over or branch.slots is None:
                continue
            if branch.node.state is State.FORKED:
                self._queue_first(self._seeds(branch))
            elif branch.node.parent is not None:
                self._join_if_ready(branch.node.parent)
        ending, self._ending = self._ending, []
        for root, reason in ending:
            self._tear_down(root, reason)

    def _seeds(self, branch: Branch) -> list[Row]:
        rows: list[Row] = []
        for kid in branch.node.kids:
            if kid.state is State.QUEUED:
                kid.handle = kid.handle or Branch(branch.tree, kid)
                rows.append(Seed(kid.handle))
        return rows

    def _join_if_ready(self, node: Node) -> None:
        branch: Branch = node.handle
        tree = branch.tree
        if not tree.ready_to_join(node):
            return
        for kid in node.kids:
            pull_records(kid.handle)
        sync_stream(branch.root)
        kids = tree.join(node)
        if kids is None:
            self.finish(branch.root, FINISH_LENGTH(length=tree.total))
            return
        sync_stream(branch.root)
        self._queue_first([*(Tail(kid.handle) for kid in kids), Resume(branch, kids)])

    def _queue_first(self, rows: list[Row]) -> None:
        self.queue[:0] = rows

    def _tear_down(self, root: Branch, reason: Any) -> None:
        """Free everything a tree holds and answer its client."""
        if root.req is None or root.req.finished():
            return
        tree, req = root.tree, root.req
        tree.end()
        self._release(root)
        sync_stream(root, everything=True)
        for node in tree.nodes():
            node.state = State.OVER
        self._forget(root)
        req.finished_reason = reason
        req.finished_len = len(req.output_ids)
        req.time_stats.set_completion_time()
        self.scheduler.output_streamer.stream_output([req], req.return_logprob)

    def _release(self, root: Branch) -> None:
        """Take a tree's rows out of the queue and its KV out of the pool."""
        for row in self.queue:
            if row.branch.tree is root.tree and isinstance(row, Resume):
                for kid in row.kids:
                    self.pool.drop(kid.handle)
        self.queue = [row for row in self.queue if row.branch.tree is not root.tree]
        self.replays = [other for other in self.replays if other is not root]
        if self.replaying is not None and self.replaying.root is root:
            self.pool.free(self.replaying.slots[: self.replaying.written])
            self.replaying = None
        for branch in self._branches(root):
            if branch.req is not None:
                branch.req.is_retracted = True
            self.pool.drop(branch)
        self._stopped = [branch for branch in self._stopped if branch.tree is not root.tree]

    def _branches(self, root: Branch) -> Iterable[Branch]:
        return [node.handle for node in root.tree.nodes() if node.handle is not None]

    # Choosing a batch.

    def next_batch(self, running_batch: ScheduleBatch) -> tuple[bool, ScheduleBatch | None]:
        """The rows to launch now.

        Returns:
            Whether the coordinator decides this step, and the batch. ``(True, None)`` keeps new
            prompts out while rows wait for memory; the running batch decodes on.
        """
        if not self.queue and self.replays and not self._begin_replay():
            # A prompt in the middle of its prefill goes on; others would take the room.
            return self.scheduler.chunked_req is None, None
        if not self.queue:
            return False, None
        rows, short = self._select()
        if not rows:
            if short and self._stuck():
                self._make_room(self.queue[0].branch.root)
            return short and self.scheduler.chunked_req is None, None
        batch, scratch = launch(self.scheduler, self.pool, rows)
        self._scratch += scratch
        self._end_replay()
        return True, batch

    def _select(self) -> tuple[list[Row], bool]:
        """Take the rows that fit out of the queue, in order; and whether some had no room."""
        scheduler, pool = self.scheduler, self.pool
        free_rows = pool.free_rows
        running = len(scheduler.running_batch.reqs)
        free_tokens = pool.free_tokens - running
        budget = scheduler.max_prefill_tokens
        chosen: list[Row] = []
        starting: dict[int, int] = {}
        waiting: list[Row] = []
        closed = False
        for row in self.queue:
            tokens = row.tokens(pool) if not closed else 0
            if not closed and tokens == 0:
                continue  # a tail already written
            tree = row.branch.tree
            cap = tree.options.max_live_rows
            live = tree.live() + starting.get(id(tree), 0)
            if closed or (row.starts and cap is not None and live >= cap):
                waiting.append(row)
                continue
            # One token of margin per row that goes on decoding.
            if free_rows < 1 or free_tokens < tokens + 1 or (chosen and budget < tokens):
                closed = True
                waiting.append(row)
                continue
            free_rows -= 1
            free_tokens -= tokens + 1
            budget -= tokens
            if isinstance(row, Seed | Resume):
                starting[id(tree)] = starting.get(id(tree), 0) + 1
            chosen.append(row)
        self.queue = waiting
        return chosen, closed

    def _stuck(self) -> bool:
        """Whether nothing else will run that could free rows or memory."""
        scheduler = self.scheduler
        last = scheduler.last_batch
        return (
            scheduler.running_batch.is_empty()
            and (last is None or last.is_empty())
            and scheduler.chunked_req is None
        )

    def _make_room(self, head: Branch) -> None:
        """``head`` waits and nothing runs: retract the youngest other tree, or give it up."""
        others = [root for root in self.trees if root is not head and root not in self.replays]
        if others:
            self.retract(others[-1])
        else:
            self._tear_down(head, _out_of_memory())

    # Memory runs out.

    def retract(self, root: Branch) -> None:
        """Take all KV of a tree away; it is computed anew, exactly, when there is room."""
        req, tree = root.req, root.tree
        assert req is not None
        self._release(root)
        for node in tree.nodes():
            node.stale = None
            if node.state is State.RUNNING:
                node.state = State.RESUMING
        req.retraction_count += 1
        self.replays.append(root)
        self.replays.sort(key=_arrival)

    def _begin_replay(self) -> bool:
        """Queue the oldest tree without KV, if there is room for it."""
        root = self.replays[0]
        tokens, trace, starts = root.tree.trace(written_only=True)
        nodes = sum(1 for _ in root.tree.nodes())
        # A few steps for every row, or the tree would be retracted again at once.
        need = len(tokens) + 4 * (nodes + len(self.scheduler.running_batch.reqs)) + 8
        if need > self.pool.free_tokens or not self.pool.free_rows:
            if self._stuck():
                self._make_room(root)
            return False
        self.replays.pop(0)
        chunk = self.scheduler.chunked_prefill_size
        size = chunk if chunk and chunk > 0 else self.scheduler.max_prefill_tokens
        slots = torch.zeros(len(tokens), dtype=torch.int64, device=self.pool.rows.device)
        replay = self.replaying = Replay(root, tokens, starts, slots)
        self.queue += [
            ReplayRow(root, replay, piece)
            for segment in segments(trace)
            for piece in pieces(segment, size)
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
        for node, start in starts.items():
            keep = len(node.tokens)
            if node.state is State.RESUMING:
                keep -= node.pending
            node.handle.slots = replay.slots[start : start + keep].clone()
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

    def relieve(self, batch: ScheduleBatch) -> tuple[list[Req], float, list[Req]] | None:
        """Make memory for a decode step by retracting the youngest requests, trees as wholes.

        Returns what ``ScheduleBatch.retract_decode`` does, or None when no tree is alive.
        """
        trees = [root for root in self.trees if root not in self.replays]
        if not trees:
            return None
        retracted: list[Req] = []
        aborted: list[Req] = []
        units: list[Any] = [*trees, *(r for r in batch.reqs if self._is_plain(r))]
        units.sort(key=_arrival)
        kept = list(range(len(batch.reqs)))
        first = True
        while first or not batch.check_decode_mem(selected_indices=kept):
            if len(units) <= 1:
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
                self._tear_down(last, _out_of_memory())
            else:
                last.to_finish = _out_of_memory()
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

    def retract_all(self) -> None:
        """Every tree, as a pause for new weights asks."""
        for root in [*self.trees]:
            if root not in self.replays:
                self.retract(root)

    # What others ask.

    def abort(self, matches: Callable[[str], bool], message: str | None) -> None:
        """End every tree whose request id matches, at once."""
        for root in [*self.trees]:
            assert root.req is not None
            if matches(root.req.rid) and not root.req.finished():
                reason = (
                    FINISH_ABORT(message, HTTPStatus.SERVICE_UNAVAILABLE)
                    if message
                    else FINISH_ABORT()
                )
                self._tear_down(root, reason)

    @property
    def idle(self) -> bool:
        return not (self.trees or self.queue or self._scratch or self._ending)

    def owned(self) -> list[tuple[str, int]]:
        """Who owns slots outside any row, and how many: parked nodes and a replay under way."""
        kids = [kid.handle for row in self.queue if isinstance(row, Resume) for kid in row.kids]
        parked = [branch for root in self.trees for branch in self._branches(root)]
        held = [
            (f"{branch.root.req.rid} {branch.node.key}", self.pool.owned(branch))
            for branch in [*parked, *kids]
        ]
        if self.replaying is not None:
            held.append((f"{self.replaying.root.req.rid} replay", self.replaying.written))
        return [(name, tokens) for name, tokens in held if tokens]

    def note_forward(self, reqs: list[Req]) -> list[int] | None:
        """Count the forward and give each row's delta, or None when all are zero."""
        seen = set()
        for req in reqs:
            branch = branch_of(req)
            if branch is not None and id(branch.tree) not in seen:
                seen.add(id(branch.tree))
                branch.tree.tally.forward_steps += 1
        deltas = [delta_of(req) for req in reqs]
        return deltas if any(deltas) else None


def _out_of_memory() -> Any:
    return FINISH_ABORT(
        "The request does not fit the KV cache even with all others retracted; lower "
        "max_new_tokens or serve with a larger --mem-fraction-static.",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )


def _arrival(unit: Any) -> tuple[int, str]:
    req = unit.req if isinstance(unit, Branch) else unit
    return getattr(req, "multiverse_arrival", 0), req.rid
