"""Calls that wait for their batch, and when it is time to send one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .batch_file import MOST_BYTES, MOST_REQUESTS
from .call import Call, Reply


@dataclass(frozen=True)
class Batching:
    """How calls are gathered.

    Attributes:
        items: items under way at once, each with one call at most.
        requests, size: of one file at most; ``size`` in bytes.
        wait: seconds after which a call is sent though other items still move.
        poll: seconds between looks at a batch.
    """

    items: int = 5000
    requests: int = MOST_REQUESTS
    size: int = MOST_BYTES
    wait: float = 600.0
    poll: float = 60.0


@dataclass
class Waiting:
    """One call, and who waits for it. ``since``: when it was to be sent, by the collector's clock;
    ``tries``: batches it has been in."""

    call: Call
    size: int
    since: float
    tries: int = 0
    futures: list[asyncio.Future[Reply]] = field(default_factory=list)


class Collector:
    """The calls of all items. Each is to be sent, or blocked (by the budget, or by another process
    that has it in flight), or in a batch.

    A file is due when nothing else moves, that is when every item waits for a call; when what is to
    be sent fills it; or when a call has waited long enough. ``changed`` is set where it may be.
    """

    def __init__(self, options: Batching, clock: Callable[[], float] = time.monotonic):
        self.options = options
        self.changed = asyncio.Event()
        self._clock = clock
        self._calls: dict[str, Waiting] = {}
        self._to_send: dict[str, Waiting] = {}
        self._blocked: dict[str, Waiting] = {}
        self._size = 0
        self._items = 0
        self._waiting = 0

    @contextmanager
    def item(self) -> Iterator[None]:
        """Around the work on one item: it moves wherever it does not wait for a call."""
        self._items += 1
        try:
            yield
        finally:
            self._items -= 1
            self.changed.set()

    def add(self, call: Call, size: int) -> asyncio.Future[Reply]:
        """The reply to ``call``, whose line has ``size`` bytes, when there is one."""
        waiting = self._calls.get(call.key)
        if waiting is None:
            waiting = self._calls[call.key] = Waiting(call, size, self._clock())
            self._queue(waiting)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waiting.futures.append(future)
        self._waiting += 1
        self.changed.set()
        return future

    def due(self) -> bool:
        """Whether a file is to be sent now."""
        if not self._to_send:
            return False
        full = len(self._to_send) >= self.options.requests or self._size >= self.options.size
        return full or self._items <= self._waiting or self._overdue() <= 0

    def next_look(self) -> float | None:
        """Seconds after which :meth:`due` may change by itself; None where it cannot."""
        times = [self._overdue()] if self._to_send else []
        if self._blocked:
            times.append(self.options.poll)
        return max(min(times), 0.0) if times else None

    def cut(self) -> list[Waiting]:
        """What goes into the next file, oldest first; it is taken out of what is to be sent."""
        taken: list[Waiting] = []
        size = 0
        for waiting in self._to_send.values():
            if len(taken) == self.options.requests or size + waiting.size > self.options.size:
                break
            taken.append(waiting)
            size += waiting.size
        for waiting in taken:
            del self._to_send[waiting.call.key]
        self._size -= size
        return taken

    def block(self, key: str) -> None:
        """The call cannot be sent now."""
        if key in self._calls:
            self._blocked[key] = self._calls[key]

    def unblock(self) -> None:
        """What was blocked may be sent now."""
        blocked, self._blocked = self._blocked, {}
        for waiting in blocked.values():
            self._queue(waiting)

    def again(self, key: str, tries: int) -> None:
        """The call goes into a next batch after ``tries`` that gave no answer, if anybody waits for
        it still."""
        if key not in self._calls:
            return
        self._calls[key].tries = tries
        if key not in self._to_send and key not in self._blocked:
            self._queue(self._calls[key])

    def answer(self, key: str, said: Reply | Exception) -> None:
        """Give those who wait for the call its reply, or the error it came to."""
        waiting = self._calls.pop(key, None)
        if waiting is None:
            return
        self._blocked.pop(key, None)
        if self._to_send.pop(key, None) is not None:
            self._size -= waiting.size
        self._waiting -= len(waiting.futures)
        for future in waiting.futures:
            if future.done():  # who waited was cancelled
                continue
            if isinstance(said, Reply):
                future.set_result(said)
            else:
                future.set_exception(said)
        self.changed.set()

    def fail(self, error: Callable[[], Exception]) -> None:
        """No call will be answered: each comes to an ``error`` of its own."""
        for key in list(self._calls):
            self.answer(key, error())

    def _queue(self, waiting: Waiting) -> None:
        waiting.since = self._clock()
        self._to_send[waiting.call.key] = waiting
        self._size += waiting.size
        self.changed.set()

    def _overdue(self) -> float:
        oldest = next(iter(self._to_send.values()))
        return oldest.since + self.options.wait - self._clock()
