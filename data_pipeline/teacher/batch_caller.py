"""Replies by the batch API: calls wait in a collector and are answered when their batch returns.

A call that is not in the store waits until a file is due. What the file may take is reserved and
written down with it (:mod:`..store.batches`), then the file is uploaded, a batch of it created,
looked at until it has ended, and every line settled as the reply to a request of its own would be.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import IO, TypeVar

from ..store.calls import call_of
from ..store.store import Filing, InBatch, OpenBatch, Opened, Store
from .batch_api import BatchApi, CannotTell, NoAnswer, NotThere, Seen
from .batch_file import Answer, NotRun, request_line
from .batch_reading import answers_of, settled_by
from .budget import FREE, UNLIMITED, Budget, Prices, worst_case
from .call import Call, Reply
from .caller import Stopped, Tally, exhausted
from .collector import Batching, Collector, Waiting
from .completion import GarbledReply
from .transport import Endpoint, TransportError

Value = TypeVar("Value")

#: Calls written to the store, or settled there, at a time.
PAGE = 500
#: Seconds a batch is still looked at after the provider has said something last.
PATIENCE = 3600.0
#: Times the files of a batch are read at most, where its counts say that they hold more.
READS = 3
#: How to be rid of a batch that the provider no longer has.
_GIVE_UP = (
    "see that key and address are those it was made with; --drop-batches gives it up, counts its "
    "calls as perhaps charged and asks them again"
)


@dataclass
class _Settled:
    """What the calls of one batch came to: replies, and errors that nobody is told yet."""

    replies: int = 0
    errors: list[tuple[str, TransportError]] = field(default_factory=list)


class BatchCaller:
    """Replies from ``store``; what is not there goes into batches. Use as an asynchronous context
    manager; batches that an earlier process left open are taken over on entering.

    Args:
        prices: what a batch costs, see :meth:`.budget.Prices.times`.
        drop: give up batches that the provider no longer knows, instead of ending the run.
        say: told in a line what becomes of every batch.
    """

    def __init__(
        self,
        store: Store,
        endpoint: Endpoint,
        prices: Prices = FREE,
        budget: Budget = UNLIMITED,
        options: Batching | None = None,
        *,
        drop: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.store = store
        self.endpoint = endpoint
        self.prices = prices
        self.budget = budget
        self.options = options or Batching()
        self.drop = drop
        self.say = say
        self.tally = Tally()
        self.stopping = asyncio.Event()
        self._api = BatchApi(endpoint)
        self._collector = Collector(self.options)
        self._following: dict[str, asyncio.Task[None]] = {}
        self._looked: dict[str, asyncio.Event] = {}
        self._sending: asyncio.Task[None] | None = None
        self._broken: Callable[[], Exception] | None = None

    async def __aenter__(self) -> BatchCaller:
        for batch in self.store.open_batches():
            self._take(batch.name)
        self._sending = asyncio.create_task(self._guarded(self._send))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.stopping.is_set():
            # Replies that nobody waits for any more are paid for all the same.
            await asyncio.gather(*(looked.wait() for looked in self._looked.values()))
        self._cancel()
        tasks = [*self._following.values(), *([self._sending] if self._sending else [])]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._api.__aexit__()

    async def __call__(self, call: Call) -> Reply:
        """The reply to ``call``, when its batch has returned.

        Raises:
            BudgetExhausted, Stopped: it was not sent, or the batch that holds it goes on.
            TransportError: the endpoint gave no reply.
        """
        reply = self.store.reply(call.key)
        if reply is not None:
            self.tally.from_store += 1
            return reply
        if self.stopping.is_set():
            raise Stopped
        if self._broken is not None:
            raise self._broken()
        size = len(request_line(call, self.endpoint))
        if size > self.options.size:
            raise TransportError(
                f"the request has {size:,} bytes, more than a file may have "
                f"({self.options.size:,}, `batch.megabytes`)"
            )
        return await self._collector.add(call, size)

    def item(self) -> AbstractContextManager[None]:
        """Around the work on one item: it moves wherever it does not wait for a call."""
        return self._collector.item()

    def stop(self) -> None:
        """Wait for nothing more, at once. Batches go on at the provider, and stay in the store."""
        self.stopping.set()
        self._cancel()
        self._collector.fail(Stopped)

    def _cancel(self) -> None:
        for task in self._following.values():
            task.cancel()
        if self._sending is not None:
            self._sending.cancel()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work``. Where it fails, no call will be answered, and each is told why."""
        try:
            await work()
        except Exception as error:
            said = str(error) if isinstance(error, TransportError) else f"{error!r}, in a batch"

            def broken(error: Exception = error) -> Exception:
                if isinstance(error, sqlite3.Error):
                    return error
                return TransportError(said, fatal=True)

            self._broken = broken
            self._collector.fail(broken)

    # --- sending

    async def _send(self) -> None:
        """Send files as they are due."""
        collector = self._collector
        while True:
            wait = collector.next_look()
            try:
                async with asyncio.timeout(wait):
                    await collector.changed.wait()
            except TimeoutError:
                collector.unblock()
            collector.changed.clear()
            while collector.due():
                await self._send_file()

    async def _send_file(self) -> None:
        """Make a batch of what is to be sent, as far as the budget allows."""
        name = f"multiverse-{uuid.uuid4().hex[:16]}"
        filed, dear = 0, []
        for page in _pages(self._collector.cut()):
            filings = [
                Filing(one.call, worst_case(one.call, self.prices), one.tries + 1) for one in page
            ]
            found = self.store.fill_batch(name, self.endpoint.base_url, filings, self.budget)
            for waiting, what in zip(page, found, strict=True):
                filed += what is Opened.OURS
                if what is Opened.DEAR:
                    dear.append(waiting)
                self._filed(waiting, what)
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.store.close_batch(name)  # nothing of it was sent
                raise
        if filed:
            self._take(name)
        elif dear:
            self._refuse(dear)

    def _filed(self, waiting: Waiting, found: Reply | Opened | InBatch) -> None:
        key = waiting.call.key
        if isinstance(found, Reply):
            self.tally.from_store += 1
            self._collector.answer(key, found)
        elif isinstance(found, InBatch):
            if found.name not in self._following and not self._take(found.name):
                self._collector.block(key)
        elif found is not Opened.OURS:
            self._collector.block(key)

    def _refuse(self, dear: Sequence[Waiting]) -> None:
        """Say that the budget does not allow these calls, unless something in flight may come to
        less than its worst case."""
        ledger = self.store.ledger()
        if ledger.held.tokens:
            return
        for waiting in dear:
            worst = worst_case(waiting.call, self.prices)
            self._collector.answer(waiting.call.key, exhausted(ledger, worst, self.prices))

    # --- following

    def _take(self, name: str) -> bool:
        """Follow the batch, unless another living process does."""
        if not self.store.take_batch(name):
            return False
        batch = next(one for one in self.store.open_batches() if one.name == name)
        self._looked[name] = asyncio.Event()
        self._following[name] = asyncio.create_task(self._guarded(lambda: self._follow(batch)))
        return True

    async def _follow(self, batch: OpenBatch) -> None:
        """Take an open batch to its end, from wherever it is."""
        try:
            if batch.id is not None:
                self.say(f"{batch} is looked at again")
            if batch.calls:
                await self._answered(batch)
            self.store.close_batch(batch.name)
            self._collector.unblock()
        finally:
            self._looked[batch.name].set()
            del self._following[batch.name]

    async def _answered(self, batch: OpenBatch) -> None:
        settled = _Settled()
        try:
            id = batch.id or await self._created(batch)
            batch = replace(batch, id=id)
            ended = await self._ended(batch, id)
            batch = replace(batch, status=ended.status)
            with self._collector.item():  # what is asked again goes with what comes next
                await self._settle(batch, ended, settled)
        except CannotTell as error:
            await self._settle_rest(batch.name, GarbledReply(str(error)), settled)
        except NotThere as error:
            if not self.drop:
                said = f"{batch} cannot be read: {error}; {_GIVE_UP}"
                raise TransportError(said, fatal=True) from error
            self.say(f"{batch} is given up: {error}")
            await self._settle_rest(batch.name, GarbledReply(str(error)), settled)

    async def _created(self, batch: OpenBatch) -> str:
        """The id of the batch, which is sent if it was not."""
        file = batch.file
        if file is None:
            file = await self._uploaded(batch.name)
        elif batch.base_url != self.endpoint.base_url:
            raise NotThere(f"it was made at {batch.base_url}, not at {self.endpoint.base_url}")
        try:
            maybe = batch.file is not None
            seen = await self._api.create(file, batch.name, maybe=maybe)
        except TransportError as error:
            if not error.unanswered:
                self.store.close_batch(batch.name)
            raise
        self.store.note_batch(batch.name, id=seen.id, status=seen.status)
        self.say(f"batch {seen.id} is sent: {batch.holds}")
        return seen.id

    async def _uploaded(self, name: str) -> str:
        try:
            with tempfile.TemporaryFile() as content:
                await self._write(name, content)
                file = await self._api.upload(name, content)
        except (TransportError, asyncio.CancelledError):
            self.store.close_batch(name)  # a file that no batch was made of costs nothing
            raise
        self.store.note_batch(name, file=file)
        return file

    async def _write(self, name: str, content: IO[bytes]) -> None:
        for page in _pages(self.store.batch_calls(name)):
            for row in page:
                content.write(request_line(call_of(row), self.endpoint))
            await asyncio.sleep(0)

    async def _ended(self, batch: OpenBatch, id: str) -> Seen:
        """The batch when it has ended."""
        status, heard = batch.status, time.monotonic()
        answered = -1
        while True:
            try:
                seen = await self._api.look(id)
            except NoAnswer:
                if time.monotonic() - heard > PATIENCE:
                    raise
                await asyncio.sleep(self.options.poll)
                continue
            moves = seen.status != status or seen.answered > answered
            if seen.known or moves:
                heard = time.monotonic()
            self.store.note_batch(batch.name, status=seen.status, answered=seen.answered)
            if seen.status != status:
                odd = "" if seen.known else ", a status that this protocol does not have"
                self.say(f"batch {id}: {seen.status}{odd}, {seen.answered:,} of {batch.calls:,}")
            status, answered = seen.status, seen.answered
            if seen.ended:
                return seen
            if time.monotonic() - heard > PATIENCE:
                raise TransportError(
                    f"batch {id} stays {status!r}, a status that this protocol does not have, with "
                    f"{answered:,} of {batch.calls:,} calls answered. See what became of it at the "
                    "provider; the same command looks at it again",
                    fatal=True,
                )
            self._looked[batch.name].set()
            await asyncio.sleep(self.options.poll)

    # --- settling

    async def _settle(self, batch: OpenBatch, seen: Seen, settled: _Settled) -> None:
        """Write down what became of every call of a batch that has ended.

        Raises:
            TransportError: the provider refused its file.
        """
        if seen.status == "failed" and not _files(seen):
            self.store.close_batch(batch.name)
            raise TransportError(_refused(self.endpoint, seen), fatal=True)
        for read in range(1, READS + 1):
            lines, whole = await self._read(batch.name, seen, settled, last=read == READS)
            read_all = whole and lines >= seen.answered
            if read_all or not any(self.store.batch_calls(batch.name)):
                break
            if read < READS:
                self.say(f"batch {seen.id}: {lines:,} of {seen.answered:,} answers can be read")
                await asyncio.sleep(self.options.poll)
                seen = await self._api.look(seen.id)
        missing = f"batch {seen.id} ({seen.status}) holds no answer to it"
        rest = NotRun(missing) if seen.status == "failed" else GarbledReply(missing)
        await self._settle_rest(batch.name, rest, settled)

    async def _read(
        self, name: str, seen: Seen, settled: _Settled, *, last: bool
    ) -> tuple[int, bool]:
        """Settle what the files of a batch answer: how many lines that were, and whether all files
        were there. One that is not may be later, but for the ``last`` time."""
        count, whole = 0, bool(_files(seen)) or seen.status != "completed"
        for file in _files(seen):
            try:
                content = await self._api.download(file)
            except NotThere:
                if last:
                    raise
                whole = False
                continue
            with content as lines:
                for page in _pages(lines):
                    answers = answers_of(page)
                    count += len(answers)
                    self._settle_answers(name, answers, settled)
                    await asyncio.sleep(0)
        return count, whole

    async def _settle_rest(self, name: str, answer: Answer, settled: _Settled) -> None:
        """Settle every call that the batch still holds by ``answer``, then tell the errors that its
        calls came to: one of them may end the run."""
        for page in _pages(self.store.batch_calls(name)):
            self._settle_answers(name, {row["key"]: answer for row in page}, settled)
            await asyncio.sleep(0)
        for key, error in settled.errors:
            error.alone = settled.replies > 0
            error.fatal = error.fatal and not (error.single and self.tally.sent)
            self.tally.failed += 1
            self._collector.answer(key, error)

    def _settle_answers(self, name: str, answers: Mapping[str, Answer], settled: _Settled) -> None:
        """Settle those of ``answers`` whose calls the batch holds: none twice."""
        replies: list[tuple[str, Reply]] = []
        given_up: list[tuple[str, int]] = []
        again: list[tuple[str, int]] = []
        for key, row in self.store.batched(name, list(answers)).items():
            verdict = settled_by(
                answers[key], call_of(row), row["tries"], self.endpoint, self.prices
            )
            if isinstance(verdict, Reply):
                replies.append((key, verdict))
                continue
            given_up.append((key, int(isinstance(answers[key], GarbledReply))))
            if verdict is None:
                again.append((key, row["tries"]))
            else:
                settled.errors.append((key, verdict))
        self.store.settle_batch(name, replies, given_up)
        settled.replies += len(replies)
        for key, reply in replies:
            self.tally.add(reply)
            self._collector.answer(key, reply)
        for key, tries in again:
            self._collector.again(key, tries)


def _files(seen: Seen) -> list[str]:
    """Ids of the files with the lines of a batch."""
    return [file for file in (seen.output_file, seen.error_file) if file is not None]


def _refused(endpoint: Endpoint, seen: Seen) -> str:
    said = f"{endpoint.base_url} refuses the file of batch {seen.id}: {seen.errors or seen.status}"
    if "token_limit" in seen.errors:
        said += "; lower `batch.items`: each has one call in the queue at most"
    return endpoint.blotted(said)


def _pages(values: Iterable[Value]) -> Iterator[list[Value]]:
    """``values`` some at a time."""
    rest = iter(values)
    while page := list(itertools.islice(rest, PAGE)):
        yield page
