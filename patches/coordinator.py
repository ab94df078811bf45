"""The coordinator: one per scheduler, it carries trees from fork to join.

It is called at five points of the scheduler's loop (the hooks stand in ``scheduler.py`` and
``batch.py``): :meth:`admit` when a request enters, :meth:`commit` for every sampled token,
:meth:`settle` before a batch is chosen, :meth:`next_batch` when one may be a fork, a join or a
replay, and :meth:`retract` when memory runs out.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

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
from .branch import Branch, Scratch, branch_of, delta_of
from .pressure import Pressure, arrival
from .rows import Replay, Resume, Row, Seed, Tail, launch
from .slots import SlotPool
from .stream import sync_stream


class Coordinator(Pressure):
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
            self.trees.sort(key=arrival)

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

    # Choosing a batch.

    def next_batch(self, running_batch: ScheduleBatch) -> tuple[bool, ScheduleBatch | None]:
        """The rows to launch now.

        Returns:
            Whether the coordinator decides this step, and the batch. ``(True, None)`` keeps new
            prompts out while rows wait for memory; the running batch decodes on.
        """
        if not self.queue and self.replays and not self._begin_replay(running_batch):
            # A prompt in the middle of its prefill goes on; others would take the room.
            return self.scheduler.chunked_req is None, None
        if not self.queue:
            return False, None
        rows, short = self._select(len(running_batch.reqs))
        if not rows:
            if short and self._stuck(running_batch):
                self._make_room(self.queue[0].branch.root)
            return short and self.scheduler.chunked_req is None, None
        batch, scratch = launch(self.scheduler, self.pool, rows)
        self._scratch += scratch
        self._end_replay()
        return True, batch

    def _select(self, running: int) -> tuple[list[Row], bool]:
        """Take the rows that fit beside ``running`` decoding ones out of the queue, in order; and
        whether some had no room."""
        pool = self.pool
        free_rows = pool.free_rows
        free_tokens = pool.free_tokens - running
        budget = self.scheduler.max_prefill_tokens
        chosen: list[Row] = []
        live: dict[Tree, int] = {}
        waiting: list[Row] = []
        closed = False
        for row in self.queue:
            tokens = row.tokens(pool) if not closed else 0
            if not closed and tokens == 0:
                continue  # a tail already written
            tree = row.branch.tree
            cap = tree.options.max_live_rows
            if cap is not None and tree not in live:
                live[tree] = tree.live()
            if closed or (row.starts and cap is not None and live[tree] >= cap):
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
            if tree in live and isinstance(row, Seed | Resume):
                live[tree] += 1
            chosen.append(row)
        self.queue = waiting
        return chosen, closed

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
