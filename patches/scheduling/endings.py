"""How a forked request ends: by itself, by a stop, a budget, an abort, or an error of ours.

The part of the coordinator that answers clients and gives everything back. An error in fork and
join ends the one request it struck: the client gets HTTP 500 with the reason, the log the
traceback, the pool its slots, and the server goes on. Touches the finish fields of ``Req`` and the
output streamer, as SGLang's own result processor does. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from sglang.srt.managers.schedule_batch import (
    FINISH_ABORT,
    FINISH_MATCHED_STR,
    FINISH_MATCHED_TOKEN,
    FINISHED_MATCHED_REGEX,
    Req,
)

from ...engine.tree import State
from ..answers.stream import sync_stream
from ..reporting.metrics import Observer
from ..rows.branch import Branch
from ..rows.slots import SlotPool

logger = logging.getLogger(__name__)

#: Scheduling steps after which no batch still holds a row that a tree has left.
ECHO = 4


def is_callers_stop(reason: Any, params: Any) -> bool:
    """Whether SGLang's finish ``reason`` is a stop string, pattern or token of the caller's."""
    if isinstance(reason, FINISH_MATCHED_TOKEN):
        return reason.matched in (params.stop_token_ids or ())
    return isinstance(reason, FINISH_MATCHED_STR | FINISHED_MATCHED_REGEX)


class Endings:
    """Ends and their clean-up, mixed into the coordinator: its state, and what it offers
    (``_keep``, ``_release``, ``_branches``)."""

    scheduler: Any
    pool: SlotPool
    observer: Observer
    trees: list[Branch]
    _ending: list[tuple[Branch, Any]]
    _laid_out: weakref.WeakSet[Branch]
    _echoes: int

    @property
    def engaged(self) -> bool:
        """Whether any batch may hold a row that fork and join care about."""
        return bool(self.trees) or self._echoes > 0 or len(self._laid_out) > 0

    def _forget(self, root: Branch) -> None:
        if root in self.trees:
            self.trees.remove(root)
        self._laid_out.discard(root)
        self._echoes = ECHO

    def finish(self, root: Branch, reason: Any) -> None:
        """End a tree that is not (only) its trunk; carried out before the next batch."""
        root.tree.end()
        self._ending.append((root, reason))

    @contextlib.contextmanager
    def contained(self, root: Branch) -> Iterator[None]:
        """Let an error inside end the request of ``root`` and nothing else."""
        try:
            yield
        except Exception as error:
            self.contain(root, error)

    def contain(self, root: Branch, error: Exception) -> None:
        """An error of ours struck ``root``: end it, as the next thing that happens."""
        rid = None if root.req is None else root.req.rid
        logger.error("fork and join failed on request %s", rid, exc_info=error)
        self.observer.malformed("contained_error")
        root.tree.end()
        if any(other is root for other, _ in self._ending):
            return
        if root.req is None or root.req.finished():
            self._forget(root)
        else:
            self._keep(root)
            self._ending.append((root, internal_error(error)))

    def give_way(self, error: Exception) -> None:
        """Something failed that no single request can be blamed for: the youngest tree ends, at
        once, so that what is left makes progress."""
        if self.trees:
            self.contain(self.trees[-1], error)
            self._carry_out()
        else:
            logger.error("fork and join failed outside any request", exc_info=error)

    def _carry_out(self) -> None:
        """End what :meth:`finish` said, and what has run into a stop of the caller's."""
        for root in [*self.trees]:
            if root.ended_by is not None and not root.tree.over:
                self.finish(root, root.ended_by)
        ending, self._ending = self._ending, []
        for root, reason in ending:
            try:
                self._tear_down(root, reason)
            except Exception as error:
                self._abandon(root, error)

    def _tear_down(self, root: Branch, reason: Any) -> None:
        """Free everything a tree holds and answer its client."""
        if root.req is None or root.req.finished():
            return
        tree, req = root.tree, root.req
        root.catch_up()
        tree.end()
        self._release(root)
        sync_stream(root, everything=True)
        if root.told is not None:
            root.told.look(ended=True)  # before the tree forgets what stands behind a stop
        if root.ended_by is not None and not isinstance(reason, FINISH_ABORT):
            reason = root.ended_by
        for node in tree.nodes():
            node.state = State.OVER
        if req.finished_len is None:
            req.finished_len = len(req.output_ids)
        tree.cut(req.finished_len)
        self._answer(root, reason)

    def _answer(self, root: Branch, reason: Any) -> None:
        req = root.req
        assert req is not None
        self._forget(root)
        req.finished_reason = reason
        req.time_stats.set_completion_time()
        try:
            self.observer.finished(root, reason)
        except Exception:
            logger.exception("request %s ended uncounted", req.rid)
        self.scheduler.output_streamer.stream_output([req], req.return_logprob)

    def _abandon(self, root: Branch, error: Exception) -> None:
        """Ending a tree failed: free what can be freed, and answer without its newest text."""
        logger.error("ending a request failed", exc_info=error)
        for branch in self._branches(root):
            branch.node.state = State.OVER
            if branch.req is not None:
                branch.req.is_retracted = True
            with contextlib.suppress(Exception):
                self.pool.drop(branch)
        if root.req is not None and not root.req.finished():
            root.req.finished_len = min(root.req.send_token_offset, len(root.req.output_ids))
            self._answer(root, internal_error(error))

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
                try:
                    self._tear_down(root, reason)
                except Exception as error:
                    self._abandon(root, error)


def fail_at_door(req: Req, error: Exception) -> None:
    """An error of ours struck a request that had not entered: it ends with its first forward."""
    logger.error("fork and join failed on request %s", req.rid, exc_info=error)
    req.__dict__.pop("multiverse", None)
    reason = internal_error(error)
    req.set_finish_with_abort(reason.message, reason.status_code, reason.err_type)


def internal_error(error: Exception) -> Any:
    return FINISH_ABORT(
        f"Fork and join failed on this request ({type(error).__name__}: {error}); the server's log "
        "has the traceback. Other requests are not affected.",
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "InternalServerError",
    )


__all__ = ["ECHO", "Endings", "fail_at_door", "internal_error", "is_callers_stop"]
