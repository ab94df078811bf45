"""Limits per minute, as providers set them on requests and tokens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

#: Seconds in which a limit holds.
MINUTE = 60.0


@dataclass(eq=False)
class Taken:
    """Units that something takes which started ``at`` that time; ``counted`` in its minute."""

    at: float
    units: float
    counted: bool = True


class PerMinute:
    """Never lets more than ``limit`` units start in any minute, and spreads them over it: what
    takes much keeps the next one waiting for as long. What takes more than ``limit`` goes alone.
    None is no limit."""

    def __init__(self, limit: float | None):
        self.limit = limit
        self._free = time.monotonic()  # when what was taken so far has flowed back
        self._taken: deque[Taken] = deque()
        self._sum = 0.0
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    async def take(self, units: float = 1) -> Taken:
        """Wait for ``units``. Waiters are served in the order they came."""
        if self.limit is None:
            return Taken(0.0, units)
        async with self._turn:
            while (wait := self._wait(units)) > 0:
                self._returned.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._returned.wait()
            now = time.monotonic()
            self._free = max(now, self._free) + units * MINUTE / self.limit
            taken = Taken(now, units)
            self._taken.append(taken)
            self._sum += units
            return taken

    def _wait(self, units: float) -> float:
        """Seconds until ``units`` may start, as far as is known now."""
        assert self.limit is not None
        now = time.monotonic()
        while self._taken and self._taken[0].at <= now - MINUTE:
            gone = self._taken.popleft()
            gone.counted = False
            self._sum -= gone.units
        full = bool(self._taken) and self._sum + units > self.limit
        minute = self._taken[0].at + MINUTE - now if full else 0.0
        return max(self._free - now, minute, 0.0)

    def give_back(self, taken: Taken, used: float) -> None:
        """What was taken came to ``used`` units."""
        if self.limit is None:
            return
        self._free -= (taken.units - used) * MINUTE / self.limit
        if taken.counted:
            self._sum += used - taken.units
        taken.units = used
        self._returned.set()
