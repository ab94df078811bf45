"""Many records through the stages at once, every outcome into the store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from sglang_multiverse.text import parse_text

from .recipe import Recipe
from .record import Record, Rejection
from .sampling.drawing import sample
from .stages import Steps, curate
from .store.store import Outcome, Status, Store, store_error
from .teacher.budget import BudgetExhausted
from .teacher.call import Call, Reply, digest
from .teacher.caller import POLL, Caller, Stopped, StoredCaller
from .teacher.transport import TransportError

#: Items in a row that the endpoint failed; then the run ends, for the next would fare no better.
GIVE_UP = 10
#: Characters kept of an unforeseen error's message and traceback.
MESSAGE, TRACEBACK = 500, 20_000

End = Literal["complete", "stopped", "budget", "endpoint", "store"]


@dataclass
class Progress:
    """How far a run is; ``settled`` at the start is what earlier runs left."""

    total: int
    settled: int = 0
    accepted: int = 0
    rejected: int = 0
    errors: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, status: Status) -> None:
        self.settled += status != "error"
        self.accepted += status == "accepted"
        self.rejected += status == "rejected"
        self.errors += status == "error"

    @property
    def reject_rate(self) -> float:
        done = self.accepted + self.rejected
        return self.rejected / done if done else 0.0


@dataclass(frozen=True)
class Finished:
    """How the run of that name ended. ``reason`` is for the reader where it did not complete."""

    run: str
    end: End
    progress: Progress
    reason: str = ""


async def drive(
    record: Record, recipe: Recipe, caller: Caller
) -> tuple[Record | Rejection, list[str]]:
    """Take one record through the stages; its result and the keys of the calls made for it.

    The stages' own work, mostly the gates, runs in a thread, so that replies of other items are
    not kept waiting.
    """
    steps, keys = (sample if recipe.draws else curate)(record, recipe), []
    result = await asyncio.to_thread(_advance, steps, None)
    while isinstance(result, Call):
        keys.append(result.key)
        reply = await caller(result)
        result = await asyncio.to_thread(_advance, steps, reply)
    return result, keys


def _advance(steps: Steps, reply: Reply | None) -> Call | Record | Rejection:
    try:
        return next(steps) if reply is None else steps.send(reply)
    except StopIteration as end:  # no future can hold one
        result: Record | Rejection = end.value
        return result


def outcome_of(record: Record, result: Record | Rejection, keys: Sequence[str] = ()) -> Outcome:
    """``result`` as the store keeps it."""
    if isinstance(result, Rejection):
        return Outcome(
            record.id, "rejected", result.stage, result.code, _rejected(result), tuple(keys)
        )
    return Outcome(record.id, "accepted", result=_accepted(result), keys=tuple(keys))


def _accepted(record: Record) -> dict[str, Any]:
    return {
        "text": record.text,
        "outline": record.outline.render() if record.outline else "",
        "notes": [finding.row() for finding in record.notes],
        "blocks": {"proposed": record.proposed, "kept": len(parse_text(record.text).blocks)},
        **record.details,
    }


def _rejected(rejection: Rejection) -> dict[str, Any]:
    return {
        "message": rejection.message,
        "span": rejection.span,
        "findings": [finding.row() for finding in rejection.findings],
        **rejection.details,
    }


def run_name(recipe: Recipe, source: str) -> str:
    """The name of a run in the store: it changes with recipe and source, not with limits."""
    return digest([recipe.fingerprint, source])[:16]


class Run:
    """One pass of ``records`` through the stages, resumable at any point.

    Items that an earlier run or another process settled are left as they are. An item the endpoint
    failed is noted and taken up again by the next run, and so is one at which this code failed: its
    traceback is kept, and the run goes on.

    Args:
        workers: items under way at once; more than the endpoint's concurrency keeps it busy.
        source: identity of the source, see :attr:`.ingest.Ingested.identity`.
        about: what report and card need to know, kept in the store.
        observe: called after every item.
    """

    def __init__(
        self,
        records: Sequence[Record],
        recipe: Recipe,
        store: Store,
        caller: StoredCaller,
        *,
        workers: int = 32,
        source: str = "",
        about: Mapping[str, Any] | None = None,
        observe: Callable[[Progress], None] = lambda progress: None,
    ):
        self.records = {record.id: record for record in records}
        self.recipe = recipe
        self.store = store
        self.caller = caller
        self.workers = workers
        self.observe = observe
        self.name = run_name(recipe, source)
        self.about = dict(about or {})
        self._queue: deque[Record] = deque()
        self._failed_in_a_row = 0
        self._end: tuple[End, str] = ("complete", "")

    async def run(self) -> Finished:
        """Process every item. Ends early, with everything settled so far in the store, when
        :meth:`stop` is called, the budget is spent, or the endpoint fails for good."""
        columns = {record.id: dict(record.columns) for record in self.records.values()}
        self.store.put_run(self.name, {**self.about, "recipe": self.recipe.row()}, columns)
        self.progress = self._counted(time.monotonic(), errors=False)
        self.observe(self.progress)
        self._queue.extend(self.records.values())
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.workers, len(self.records))):
                    group.create_task(self._work())
        finally:
            with suppress(sqlite3.Error):  # of a store that failed, told already
                self.store.add_seconds(self.name, time.monotonic() - started)
        with suppress(sqlite3.Error):  # once more, with what other processes settled
            self.progress = self._counted(self.progress.started, errors=True)
        return Finished(self.name, self._end[0], self.progress, self._end[1])

    def _counted(self, started: float, *, errors: bool) -> Progress:
        """What the store says of these records; without ``errors`` as if none had failed."""
        progress = Progress(len(self.records), started=started)
        for item, status in self.store.statuses(self.name):
            if item in self.records and (errors or status != "error"):
                progress.add(status)
        return progress

    def stop(self, end: End = "stopped", reason: str = "") -> None:
        """Make no new calls; those in flight are waited for."""
        if not self.caller.stopping.is_set():
            self._end = (end, reason)
            self.caller.stop()

    async def _work(self) -> None:
        try:
            while self._queue and not self.caller.stopping.is_set():
                record = self._queue.popleft()
                if self.store.claim(self.name, record.id):
                    await self._process(record)
                elif not self.store.settled(self.name, record.id):
                    self._queue.append(record)  # another process has it; it may die of it
                    await asyncio.sleep(POLL)
        except sqlite3.Error as error:
            self.stop("store", str(store_error(self.store.path, error)))

    async def _process(self, record: Record) -> None:
        try:
            result, keys = await drive(record, self.recipe, self.caller)
        except Stopped:
            self.store.free(self.name, record.id)
            return
        except BudgetExhausted as error:
            self.store.free(self.name, record.id)
            self.stop("budget", str(error))
            return
        except TransportError as error:
            self._failed(record, error)
            return
        except sqlite3.Error:
            raise
        except Exception as error:
            self._unforeseen(record, error)
            return
        except BaseException:
            self.store.free(self.name, record.id)
            raise
        self._failed_in_a_row = 0
        self._settle(outcome_of(record, result, keys))

    def _unforeseen(self, record: Record, error: Exception) -> None:
        result = {
            "message": f"{type(error).__name__}: {error}"[:MESSAGE],
            "span": None,
            "findings": [],
            "traceback": "".join(traceback.format_exception(error))[-TRACEBACK:],
        }
        self._settle(Outcome(record.id, "error", "unforeseen", type(error).__name__, result))

    def _failed(self, record: Record, error: TransportError) -> None:
        if error.fatal:
            self.store.free(self.name, record.id)
            self.stop("endpoint", str(error))
            return
        self._failed_in_a_row += 1
        result = {"message": str(error), "span": None, "findings": []}
        self._settle(Outcome(record.id, "error", "transport", "transport", result))
        if self._failed_in_a_row >= GIVE_UP:
            self.stop("endpoint", f"{GIVE_UP} items in a row failed, the last with: {error}")

    def _settle(self, outcome: Outcome) -> None:
        self.store.settle(self.name, outcome)
        self.progress.add(outcome.status)
        self.observe(self.progress)
