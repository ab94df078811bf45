"""The coordinator: one per scheduler, it carries trees from fork to join.

It is called at five points of the scheduler's loop (the hooks stand in ``scheduler.py`` and
``batch.py``): :meth:`admit` when a request enters, :meth:`commit` for every sampled token,
:meth:`settle` before a batch is chosen, :meth:`next_batch` when one may be a fork, a join or a
replay, and :meth:`relieve` when memory runs out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from sglang.srt.managers.schedule_batch import (
    FINISH_ABORT,
    FINISH_LENGTH,
    FINISH_MATCHED_TOKEN,
    Req,
    ScheduleBatch,
)

from ...dialect import Dialect
from ...engine.options import EngineOptions
from ...engine.policy import Admission, Policy, in_turn
from ...engine.tree import Node, Outcome, State
from ..answers.stream import sync_stream
from ..attention import cascades, knows_segments
from ..reporting.metrics import Observer
from ..rows.branch import Branch, branch_of, delta_of, share, steps_alone
from ..rows.launch import LaunchError, Replay, Resume, Row, Seed, Tail, launch
from ..rows.slots import SlotPool
from .endings import ECHO, Endings, is_callers_stop
from .entry import Entrance
from .prefix_cache import keeps_structured, offer
from .pressure import Pressure, arrival
from .priority import outranked
from .sharing import Sharing


class Coordinator(Entrance, Pressure, Sharing, Endings):
    """Fork, join and replay for the requests of one scheduler.

    Attributes:
        trees: requests that have forked or whose prompt is replayed, in order of arrival.
        queue: rows waiting to be launched, in dependency order.
        replays: trees without KV (retracted, or new with a prompt to replay), by arrival.
        by_segments: the attention backend computes a text with finished blocks in one row.
        cascades: siblings may read the prefix they share once per decode step.
        keyed: the prefix cache can hold KV that is not causal.
    """

    def __init__(self, scheduler: Any, dialect: Dialect, options: EngineOptions):
        self.scheduler = scheduler
        self.dialect = dialect
        self.options = options
        self.pool = SlotPool(scheduler)
        # The key of a prefix does not name what its tokens saw behind it, nor can one row hold it.
        shares = options.share_every is not None
        self.by_segments = knows_segments(scheduler) and not shares
        self.cascades = cascades(scheduler.server_args)
        self.keyed = keeps_structured(scheduler) and not shares
        self.observer = Observer.for_scheduler(scheduler)
        self.trees: list[Branch] = []
        self.queue: list[Row] = []
        self.replays: list[Branch] = []
        self.replaying: Replay | None = None
        self._stopped: list[Branch] = []
        self._ending: list[tuple[Branch, Any]] = []
        self._scratch: list[Req] = []
        self._laid_out: weakref.WeakSet[Branch] = weakref.WeakSet()
        self._arrivals = 0
        self._echoes = 0
        self.policy = Policy.parse(options.policy)
        self.ends = _ends(scheduler)

    # A token has been sampled.

    def commit(
        self, branch: Branch, original: Callable[..., None], req: Req, accepted: int
    ) -> None:
        """Run stock finish checks on the newest token of ``req``, then fork, close, stop or end."""
        tree, node = branch.tree, branch.node
        if tree.over or node.state is not State.RUNNING:
            self._discard(req, accepted)
        elif branch.is_trunk:
            self._commit_trunk(branch, original, req, accepted)
        elif req.to_finish is not None:
            self.finish(branch.root, req.to_finish)
            req.to_finish = None
            self._discard(req, accepted)
        else:
            self._commit_path(branch, original, req, accepted)

    def _commit_path(
        self, branch: Branch, original: Callable[..., None], req: Req, accepted: int
    ) -> None:
        tree, node, params = branch.tree, branch.node, req.sampling_params
        original(req, accepted)
        reason, length = req.finished_reason, req.finished_len
        req.finished_reason = req.finished_len = None
        own, token = len(node.tokens), req.output_ids[-1]
        branch.unfilled.append(own)
        if is_callers_stop(reason, params):
            tree.take(node, (token,))
            tree.stop(node, len(node.tokens) if length is None else length)
            branch.ended_by = reason
            self._stop(branch)
            return
        if isinstance(reason, FINISH_ABORT):
            tree.take(node, (token,))
            self.finish(branch.root, reason)
            return
        if isinstance(reason, FINISH_LENGTH):  # of its share, an estimate; the tree's budget rules
            params.max_new_tokens = len(req.output_ids) + share(tree)
        outcome = tree.accept(node, token)
        if outcome is Outcome.CONTINUE and isinstance(reason, FINISH_MATCHED_TOKEN):
            outcome = tree.end_path(node, replace=True)
        if outcome is Outcome.CONTINUE:
            outcome = tree.share(node)
        if outcome is Outcome.END_PATH and not node.sampled[own]:
            branch.unfilled.pop()  # what was sampled is not what the text says
            self.observer.malformed("ended_inside_path")
        if outcome is Outcome.LENGTH:
            self.finish(branch.root, FINISH_LENGTH(length=tree.total))
        elif outcome in (Outcome.FORK, Outcome.END_PATH, Outcome.SHARE):
            if outcome is Outcome.FORK:
                self.observer.forked(branch)
            self._stop(branch)

    def _commit_trunk(
        self, branch: Branch, original: Callable[..., None], req: Req, accepted: int
    ) -> None:
        tree = branch.tree
        original(req, accepted)
        if accepted and req.finished_reason is None:
            token = req.output_ids[-1]
            if token not in self.dialect.tag_of and tree.options.max_critical_path is None:
                return
            branch.catch_up(but_last=1)
            outcome = tree.accept(branch.node, token)
            if outcome is Outcome.LENGTH:
                req.finished_reason = FINISH_LENGTH(length=len(req.output_ids))
                req.finished_len = len(req.output_ids)
            elif outcome is Outcome.FORK:
                self._begin_tree(branch)
                self._stop(branch)
        if req.finished():
            branch.catch_up()
            tree.over = True
            self._forget(branch)
            offer(branch)
            self.observer.finished(branch, req.finished_reason)

    def _begin_tree(self, branch: Branch) -> None:
        """A trunk has forked: from here on its KV is of another layout than its tokens alone would
        have."""
        self.observer.forked(branch)
        branch.layout = None  # its rows are causal again from here, less its delta
        if branch in self.trees:
            return
        self._keep(branch)
        assert branch.req is not None
        branch.req.skip_radix_cache_insert = True
        # Until now its forwards were stock code's to count.
        branch.tree.tally.forward_steps += steps_alone(branch.req)

    @staticmethod
    def _discard(req: Req, accepted: int) -> None:
        for _ in range(accepted):
            req.output_ids.pop()

    def _stop(self, branch: Branch) -> None:
        """The node decodes no more; a step in flight may still compute a sample to throw away."""
        assert branch.req is not None
        branch.req.is_retracted = True
        self._stopped.append(branch)

    def _keep(self, root: Branch) -> None:
        if root not in self.trees:
            self.trees.append(root)
            self.trees.sort(key=arrival)

    # Before a batch is chosen.

    def settle(self) -> None:
        """Carry out what the last results decided: free scratch rows, park, join, end."""
        self._echoes = max(0, self._echoes - 1)
        scratch, self._scratch = self._scratch, []
        for req in scratch:
            if req.kv.holds_kv:
                self.pool.release_row(req)
        stopped, self._stopped = self._stopped, []
        for branch in stopped:
            if not branch.tree.over and branch.live:
                with self.contained(branch.root):
                    self.pool.park(branch)
        for branch in stopped:
            if branch.tree.over or branch.slots is None:
                continue
            with self.contained(branch.root):
                if branch.node.state is State.FORKED:
                    self._queue_first(self._seeds(branch))
                    continue
                sync_stream(branch.root)  # a stop may stand in what this lets through
                if branch.node.parent is not None:
                    self._join_if_ready(branch.node.parent)
                    if branch.tree.share_every is not None:
                        rows = self._shares(branch.node.parent, branch.tree.share_every)
                        self._queue_behind(branch, rows)
        self._carry_out()

    def _seeds(self, branch: Branch) -> list[Row]:
        every = branch.tree.share_every
        if every is not None:
            if branch.tree.ready_to_join(branch.node):
                return []
            return [Tail(branch), *self._shares(branch.node, every)]
        rows: list[Row] = []
        for kid in branch.node.kids:
            if kid.state is State.QUEUED:
                kid.handle = kid.handle or Branch(branch.tree, kid)
                rows.append(Seed(kid.handle))
        return rows

    def _join_if_ready(self, node: Node) -> None:
        branch: Branch = node.handle
        tree = branch.tree
        if not tree.ready_to_join(node) or branch.root.ended_by is not None:
            return
        ends = None if tree.share_every is None else self._shares(node, tree.share_every)
        kids = tree.join(node)
        if kids is None:
            self.finish(branch.root, FINISH_LENGTH(length=tree.total))
            return
        self.observer.joined(kids)
        if ends is None:
            self._queue_first([*(Tail(kid.handle) for kid in kids), Resume(branch, kids)])
        else:
            self._queue_behind(branch, [*ends, Resume(branch, kids)])
        sync_stream(branch.root)

    def _queue_first(self, rows: list[Row]) -> None:
        self.queue[:0] = rows

    # Choosing a batch.

    def next_batch(self, running_batch: ScheduleBatch) -> tuple[bool, ScheduleBatch | None]:
        """The rows to launch now.

        Returns:
            Whether the coordinator decides this step, and the batch. ``(True, None)`` keeps new
            prompts out while rows, or a prompt in the middle of its prefill, wait for memory; the
            running batch decodes on.
        """
        decided, batch = self._rows_to_launch(running_batch)
        if decided or not self._chunk_starves(running_batch):
            return decided, batch
        return self._make_room_for_chunk(running_batch), None

    def _rows_to_launch(self, running_batch: ScheduleBatch) -> tuple[bool, ScheduleBatch | None]:
        if self.replays and self._held_back(len(running_batch.reqs)):
            if outranked(self.scheduler, self.replays[0]):
                return False, None
            begun = False
            with self.contained(self.replays[0]):
                begun = self._begin_replay(running_batch)
            if not begun:
                # A prompt in the middle of its prefill goes on; others would take the room.
                return self.scheduler.chunked_req is None, None
        if not self.queue:
            return False, None
        rows, short = self._select(len(running_batch.reqs))
        self.observer.deferred(self.queue)
        if not rows:
            if short and self._stuck(running_batch):
                self._make_room(self.queue[0].branch.root)
            return short and self.scheduler.chunked_req is None, None
        try:
            batch, scratch = launch(self.scheduler, self.pool, rows)
        except LaunchError as error:
            self._queue_first(rows)  # those that failed too: they hold what is to be freed
            cause = error.__cause__
            assert isinstance(cause, Exception)
            self.contain(error.failed.branch.root, cause)
            return True, None
        self._scratch += scratch
        self._echoes = ECHO
        if self.replaying is not None:
            with self.contained(self.replaying.root):
                self._end_replay()
        return True, batch

    def _held_back(self, running: int) -> bool:
        """Whether nothing is queued but paths that may not start yet."""
        admission = Admission(self.policy, running)
        return all(row.starts and not admission.admits(row.branch.tree) for row in self.queue)

    def _select(self, running: int) -> tuple[list[Row], bool]:
        """Take the rows that fit beside ``running`` decoding ones out of the queue, in order; and
        whether some had no room."""
        pool = self.pool
        free_rows = pool.free_rows
        free_tokens = pool.free_tokens - running
        budget = self.scheduler.max_prefill_tokens
        chosen: list[Row] = []
        admission = Admission(self.policy, running)
        waiting: list[Row] = []
        closed = False
        for row in in_turn(self.queue, starts=_starts, arrival=_age):
            tokens = row.tokens(pool) if not closed else 0
            if not closed and tokens == 0:
                continue  # a tail already written
            tree = row.branch.tree
            if closed or (row.starts and not admission.admits(tree)):
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
            if not row.writes_only:
                admission.start(tree)
            chosen.append(row)
        self.queue = waiting
        return chosen, closed

    # What others ask.

    @property
    def idle(self) -> bool:
        return not (self.trees or self.queue or self._scratch or self._ending)

    @property
    def holds_nothing(self) -> bool:
        """Whether no tree has KV or a row: those alive wait for their replay."""
        return len(self.replays) == len(self.trees) and not (
            self.queue or self._scratch or self._ending or self.replaying
        )

    def owned(self) -> list[tuple[str, int]]:
        """Who owns slots outside any row, and how many: parked nodes and a replay under way."""
        kids = [kid.handle for row in self.queue if isinstance(row, Resume) for kid in row.kids]
        parked = [branch for root in self.trees for branch in self._branches(root)]
        held = [
            (f"{branch.root.req.rid} {branch.node.key}", self.pool.owned(branch))
            for branch in [*parked, *kids]
        ]
        if self.replaying is not None:
            replay = self.replaying
            held.append((f"{replay.root.req.rid} replay", replay.written - replay.cached))
        return [(name, tokens) for name, tokens in held if tokens]

    def note_forward(self, reqs: list[Req]) -> list[int] | None:
        """Count the forward and give each row's delta, or None when no row is fork and join's."""
        if not self.engaged:
            return None
        seen: set[int] = set()
        deltas: list[int] = []
        for req in reqs:
            branch = branch_of(req)
            if branch is not None and branch.tree.forked and id(branch.tree) not in seen:
                seen.add(id(branch.tree))
                branch.tree.tally.forward_steps += 1
            deltas.append(delta_of(req))
        return deltas


def _ends(scheduler: Any) -> list[int]:
    """Ids of the tokens that end a text."""
    found = {*(scheduler.model_config.hf_eos_token_id or ())}
    if scheduler.tokenizer is not None:
        found |= {scheduler.tokenizer.eos_token_id}
        found |= {*(scheduler.tokenizer.additional_stop_token_ids or ())}
    return sorted(i for i in found if i is not None and i < scheduler.model_config.vocab_size)


def _starts(row: Row) -> bool:
    return row.starts


def _age(row: Row) -> Any:
    return arrival(row.branch.root)
