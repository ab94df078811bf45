"""Limits per minute, as providers set them on requests and tokens."""

from __future__ import annotations

import asyncio
import time


class PerMinute:
    """A token bucket that holds at most one second's worth and never lets more than ``limit``
    units start in any minute, in the long run. None is no limit."""

    def __init__(self, limit: float | None):
        self.rate = None if limit is None else limit / 60
        self._free = time.monotonic()  # when what was taken so far has flowed back

    async def take(self, units: float = 1) -> None:
        """Wait for ``units``. Waiters are served in the order they came."""
        if self.rate is None:
            return
        now = time.monotonic()
        start = max(now, self._free)
        self._free = start + units / self.rate
        await asyncio.sleep(start - now)

    def give_back(self, units: float) -> None:
        """Return what was taken in excess of what was used."""
        if self.rate is not None:
            self._free -= units / self.rate
