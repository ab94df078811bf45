"""From a call to its reply: out of the store if it is there, else paid for within the budget."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..store.store import Ledger, Opened, Store
from .budget import UNLIMITED, Amount, Budget, BudgetExhausted, Prices, worst_case
from .call import Call, Message, Reply, Sampling
from .transport import Interrupted, Transport, TransportError

#: Seconds between looks at a call that another process has in flight, or at a budget that is held.
POLL = 0.2
#: What the first request says, and the most it lets the model answer.
PREFLIGHT = "Answer with one word: ready"
PREFLIGHT_TOKENS = 64


class Stopped(RuntimeError):
    """The run is ending; no further call is made."""


class Caller(Protocol):
    """What the pipeline asks for replies."""

    async def __call__(self, call: Call) -> Reply: ...


class Teacher(Caller, Protocol):
    """What a run asks for replies and tells how it goes."""

    tally: Tally
    stopping: asyncio.Event

    def stop(self) -> None:
        """Send no further call."""

    def item(self) -> AbstractContextManager[None]:
        """Around the work on one item."""


@dataclass
class Tally:
    """What a caller has done in this run."""

    from_store: int = 0
    sent: int = 0
    failed: int = 0
    tokens: int = 0
    cost: float = 0.0

    def add(self, reply: Reply) -> None:
        """Count a reply that was paid for."""
        self.sent += 1
        self.tokens += reply.usage.input + reply.usage.output
        self.cost += reply.cost


@dataclass
class StoredCaller:
    """Replies from ``store``; what is not there is sent by ``transport`` and written there.

    Attributes:
        preflight: a call to send before the first one, that shows key, model and address are right.
    """

    store: Store
    transport: Transport
    budget: Budget = UNLIMITED
    preflight: Call | None = None
    tally: Tally = field(default_factory=Tally)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _flying: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, call: Call) -> Reply:
        """The reply to ``call``.

        Raises:
            BudgetExhausted, Stopped: nothing was sent.
            TransportError: the endpoint gave no reply.
        """
        reply = self.store.reply(call.key)
        if reply is not None:
            self.tally.from_store += 1
            return reply
        if self.preflight is not None:
            async with self._flying:
                if self.preflight is not None:
                    await self._fly(self.preflight)
                    self.preflight = None
        return await self._paid(call)

    def item(self) -> AbstractContextManager[None]:
        """Around the work on one item: it waits for nobody else."""
        return nullcontext()

    def stop(self) -> None:
        """Send no further call; those that wait for another try end, those in flight go on."""
        self.stopping.set()
        self.transport.wake()

    async def _fly(self, call: Call) -> None:
        try:
            reply = await self._paid(call)
        except TransportError as error:
            raise TransportError(
                f"{error}. It was the first request, to see whether key, model and address are "
                "right; no item was asked for",
                unanswered=error.unanswered,
                fatal=True,
            ) from error
        if reply.failure == "too-long":
            raise TransportError(reply.text, fatal=True)

    async def _paid(self, call: Call) -> Reply:
        while True:
            async with self.transport.slot:
                if self.stopping.is_set():
                    raise Stopped
                opened = self._open(call)
                if isinstance(opened, Reply):
                    self.tally.from_store += 1
                    return opened
                if opened is Opened.OURS:
                    return await self._send(call)
            await asyncio.sleep(POLL)

    def _open(self, call: Call) -> Reply | Opened:
        worst = worst_case(call, self.transport.prices)
        opened = self.store.open_call(call, worst, self.budget)
        if opened is Opened.DEAR:
            ledger = self.store.ledger()
            if not ledger.held.tokens:
                raise exhausted(ledger, worst, self.transport.prices)
        return opened

    async def _send(self, call: Call) -> Reply:
        books = _Books(self, call)
        try:
            reply = await self.transport.send(call, books)
        except Interrupted as error:
            books.abandon()
            raise Stopped from error
        except TransportError:
            books.abandon()
            self.tally.failed += 1
            raise
        except BaseException:  # cancelled with the request in flight
            books.abandon(unanswered=1)
            raise
        if not books.held:  # another process has asked for it meanwhile
            self.tally.from_store += 1
            return reply
        self.store.close_call(call.key, replace(reply, unanswered=0))
        self.tally.add(reply)
        return reply


class _Books:
    """The books of a call that is being sent. A request that is not answered is booked at once as
    perhaps paid, and what the next one may take is held before it is sent, so that requests do not
    add up to more than the budget."""

    def __init__(self, caller: StoredCaller, call: Call):
        self._caller = caller
        self._call = call
        self.held = True

    def lost(self) -> None:
        self.abandon(unanswered=1)

    async def again(self) -> Reply | None:
        while not self.held:
            opened = self._caller._open(self._call)
            if isinstance(opened, Reply):
                return opened
            self.held = opened is Opened.OURS
            if not self.held:
                await asyncio.sleep(POLL)
        return None

    def abandon(self, *, unanswered: int = 0) -> None:
        """Give up the reservation, if there is one."""
        if self.held:
            self.held = False
            self._caller.store.abandon_call(self._call.key, unanswered)


def exhausted(ledger: Ledger, worst: Amount, prices: Prices) -> BudgetExhausted:
    """The next call may take ``worst``, which is over the budget, and nothing is in flight."""
    spent = ledger.paid + ledger.lost

    def told(amount: Amount) -> str:
        money = f" and {amount.cost:.2f} {prices.currency}"
        return f"{amount.tokens:,} tokens" + (money if prices.input or prices.output else "")

    return BudgetExhausted(
        f"{told(spent)} are spent or were perhaps charged; the next call could take {told(worst)} "
        "more, over the budget. Raise `budget` and run again: nothing is lost"
    )


def preflight(model: str, sampling: Sampling) -> Call:
    """A call of a few tokens under the sampling of the others; another one every time."""
    return Call(
        item="",
        stage="preflight",
        stage_version="1",
        prompt="preflight",
        prompt_hash="",
        model=model,
        sampling=replace(sampling, max_tokens=min(PREFLIGHT_TOKENS, sampling.max_tokens)),
        messages=(Message("user", PREFLIGHT),),
        attempt=time.time_ns(),
    )
