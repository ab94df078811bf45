"""Many records through the stages at once, every outcome into the store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .advance import outcome_of, unforeseen
from .recipe import Recipe
from .record import Record
from .store.store import Outcome, Status, Store, store_error
from .teacher.budget import BudgetExhausted
from .teacher.call import Call, Reply, digest
from .teacher.caller import POLL, Caller, Stopped, Teacher
from .teacher.transport import TransportError
from .workers import Processes, Threads, Workers

#: Workers that may look at once, every :data:`.caller.POLL` seconds, for items of other processes
#: to come free; more look less often.
POLLING = 64
#: Items in a row that the endpoint failed, or replies in a row that it did not end as done; then
#: the run ends, for the next would fare no better.
GIVE_UP = 10

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
    def open(self) -> int:
        """Items that are neither accepted nor rejected."""
        return self.total - self.settled

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


async def drive(record: Record, workers: Workers, caller: Caller) -> Outcome:
    """Take one record through the stages: what becomes of it, with the keys of its calls."""
    working = workers.begin(record)
    keys = []
    try:
        step = await working.go_on(None)
        while isinstance(step, Call):
            keys.append(step.key)
            step = await working.go_on(await caller(step))
    finally:
        working.drop()
    return step if step.status == "error" else replace(step, keys=tuple(keys))


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
        processes: processes that do the stages' own work, mostly the gates; 0 does it in threads of
            this one.
        source: identity of the source, see :attr:`.ingest.Ingested.identity`.
        about: what report and card need to know, kept in the store.
        observe: called after every item.
    """

    def __init__(
        self,
        records: Sequence[Record],
        recipe: Recipe,
        store: Store,
        caller: Teacher,
        *,
        workers: int = 32,
        processes: int = 0,
        source: str = "",
        about: Mapping[str, Any] | None = None,
        observe: Callable[[Progress], None] = lambda progress: None,
    ):
        self.records = records
        self._places = {record.id: place for place, record in enumerate(records)}
        self.recipe = recipe
        self.store = store
        self.caller = caller
        self.workers = workers
        self.work: Workers = Processes(recipe, processes) if processes else Threads(recipe)
        self.observe = observe
        self.name = run_name(recipe, source)
        self.about = dict(about or {})
        self.progress = Progress(len(self._places))
        self._queue: deque[str] = deque()
        self._undecided: list[str] = []
        self._failed_in_a_row = self._unfinished = 0
        self.ended: tuple[End, str] = ("complete", "")

    async def run(self) -> Finished:
        """Process every item. Ends early, with everything settled so far in the store, when
        :meth:`stop` is called, the budget is spent, or the endpoint fails for good."""
        self.register(self.records)
        self.progress = self._counted(time.monotonic(), errors=False)
        self.observe(self.progress)
        self._queue.extend(self._places)
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                with self.caller.item():  # more come: nobody who waits is the last one yet
                    for _ in range(min(self.workers, len(self._places))):
                        group.create_task(self._work())
                        await asyncio.sleep(0)
            await self._others()
        finally:
            await self.work.close()
            with suppress(sqlite3.Error):  # of a store that failed, told already
                self.store.free_all(self.name, self._undecided)
                self.store.add_seconds(self.name, time.monotonic() - started)
        with suppress(sqlite3.Error):  # once more, with what other processes settled
            self.progress = self._counted(self.progress.started, errors=True)
        return Finished(self.name, self.ended[0], self.progress, self.ended[1])

    def register(self, records: Iterable[Record]) -> None:
        """Write down that ``records`` are items of this run."""
        columns = ((record.id, record.columns) for record in records)
        self.store.put_run(self.name, {**self.about, "recipe": self.recipe.row()}, columns)

    def _counted(self, started: float, *, errors: bool) -> Progress:
        """What the store says of these records; without ``errors`` as if none had failed."""
        progress = Progress(len(self._places), started=started)
        for item, status in self.store.statuses(self.name):
            if item in self._places and (errors or status != "error"):
                progress.add(status)
        return progress

    def stop(self, end: End = "stopped", reason: str = "") -> None:
        """Make no new calls; those in flight are waited for."""
        if not self.caller.stopping.is_set():
            self.ended = (end, reason)
            self.caller.stop()

    async def _work(self) -> None:
        try:
            while self._queue and not self.caller.stopping.is_set():
                item = self._queue.popleft()
                if self.store.claim(self.name, item):
                    if await self._curate(self.records[self._places[item]]) is None:
                        self._undecided.append(item)
                elif not self.store.settled(self.name, item):
                    self._queue.append(item)  # another process has it; it may die of it
                    await asyncio.sleep(POLL * max(1, self.workers / POLLING))
        except sqlite3.Error as error:
            self.stop("store", str(store_error(self.store.path, error)))

    async def _others(self) -> None:
        """Wait for items that failed here and that another process has taken up since."""
        begun = time.monotonic()
        try:
            while not self.caller.stopping.is_set() and self.store.elsewhere(
                self.name, self._places
            ):
                looked = time.monotonic() - begun
                await asyncio.sleep(max(POLL, 10 * looked))  # a long run takes a while to look at
                begun = time.monotonic()
        except sqlite3.Error as error:
            self.stop("store", str(store_error(self.store.path, error)))

    async def curate(self, record: Record) -> Outcome | None:
        """Take ``record`` through the stages and settle it; None where it is left undecided,
        because the run ends."""
        outcome = await self._curate(record)
        if outcome is None:
            self.store.free(self.name, record.id)
        return outcome

    async def _curate(self, record: Record) -> Outcome | None:
        """As :meth:`curate`; an item that is left undecided stays claimed."""
        with self.caller.item():
            return await self._decide(record)

    async def _decide(self, record: Record) -> Outcome | None:
        try:
            outcome = await drive(record, self.work, self._reply)
        except Stopped:
            return None
        except BudgetExhausted as error:
            self.stop("budget", str(error))
            return None
        except TransportError as error:
            return self._failed(record, error)
        except sqlite3.Error:
            raise
        except Exception as error:
            outcome = unforeseen(record.id, error)
        except BaseException:
            self.store.free(self.name, record.id)
            raise
        if outcome.status != "error":
            self._failed_in_a_row = 0
        return self._settle(outcome)

    async def _reply(self, call: Call) -> Reply:
        if self.caller.stopping.is_set():  # what is in the store can wait there
            raise Stopped
        reply = await self.caller(call)
        self._unfinished = self._unfinished + 1 if reply.failure == "unfinished" else 0
        if self._unfinished >= GIVE_UP:
            word = reply.text.partition("\n")[0]
            self.stop(
                "endpoint",
                f"{GIVE_UP} replies in a row ended before they were done, the last with {word}; "
                "see what the endpoint means by it",
            )
        return reply

    def _failed(self, record: Record, error: TransportError) -> Outcome | None:
        if error.fatal:
            self.stop("endpoint", str(error))
            return None
        self._failed_in_a_row = 0 if error.alone else self._failed_in_a_row + 1
        result = {"message": str(error), "span": None, "findings": []}
        outcome = self._settle(Outcome(record.id, "error", "transport", "transport", result))
        if self._failed_in_a_row >= GIVE_UP:
            self.stop("endpoint", f"{GIVE_UP} items in a row failed, the last with: {error}")
        return outcome

    def _settle(self, outcome: Outcome) -> Outcome:
        self.store.settle(self.name, outcome)
        self.progress.add(outcome.status)
        self.observe(self.progress)
        return outcome


__all__ = ["End", "Finished", "Progress", "Run", "drive", "outcome_of", "run_name"]
