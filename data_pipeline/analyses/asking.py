"""Many questions at once through the pipeline's store, budget and transport.

An analysis keeps no outcomes of its own: replies are in the store under their content, so the same
command again makes no call that was answered, and goes on where another was stopped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from ..pipeline import GIVE_UP
from ..teacher.budget import BudgetExhausted
from ..teacher.call import Call, Reply
from ..teacher.caller import Stopped, StoredCaller
from ..teacher.prompt import Prompts, read
from ..teacher.transport import TransportError

#: Prompts of the analyses. They lie apart from the curator's, whose texts name its runs.
FOLDER = Path(__file__).parent / "prompts"

Value = TypeVar("Value")
Steps = Generator[Call, Reply, Value]
End = Literal["complete", "stopped", "budget", "endpoint"]


def prompts(*, system: str, task: str) -> Prompts:
    """The prompts of one analysis, under the names by which stages ask for them."""
    curator = Prompts.load()
    return Prompts(
        {
            "curator": read(FOLDER / f"{system}.md"),
            task: read(FOLDER / f"{task}.md"),
            "repair": curator["repair"],
        }
    )


@dataclass
class Asked(Generic[Value]):
    """What came back. ``failed`` says per item what the endpoint did; what is in neither was not
    asked, for the ``reason`` given."""

    results: dict[str, Value] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    end: End = "complete"
    reason: str = ""


class Asking(Generic[Value]):
    """One pass over ``items`` (id → its generator), resumable at any point.

    Args:
        observe: called after every item with how many are done.
    """

    def __init__(
        self,
        items: Mapping[str, Steps[Value]],
        caller: StoredCaller,
        *,
        workers: int = 32,
        observe: Callable[[int], None] = lambda done: None,
    ):
        self.caller = caller
        self.workers = workers
        self.observe = observe
        self.asked: Asked[Value] = Asked()
        self._order = list(items)
        self._queue = deque(items.items())
        self._failed_in_a_row = 0

    async def run(self) -> Asked[Value]:
        """Ask everything. Ends early when :meth:`stop` is called, the budget is spent, or the
        endpoint fails for good; what was answered is kept."""
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.workers, len(self._queue))):
                group.create_task(self._work())
        results = self.asked.results
        self.asked.results = {item: results[item] for item in self._order if item in results}
        return self.asked

    def stop(self, end: End = "stopped", reason: str = "") -> None:
        """Make no new calls; those in flight are waited for."""
        if not self.caller.stopping.is_set():
            self.asked.end, self.asked.reason = end, reason
            self.caller.stopping.set()

    async def _work(self) -> None:
        while self._queue and not self.caller.stopping.is_set():
            item, steps = self._queue.popleft()
            try:
                self.asked.results[item] = await self._drive(steps)
                self._failed_in_a_row = 0
            except Stopped:
                return
            except BudgetExhausted as error:
                self.stop("budget", str(error))
                return
            except TransportError as error:
                self._failed(item, error)
            self.observe(len(self.asked.results) + len(self.asked.failed))

    async def _drive(self, steps: Steps[Value]) -> Value:
        """Replies are read in a thread, so that those of other items are not kept waiting."""
        step = await asyncio.to_thread(_advance, steps, None)
        while isinstance(step, Call):
            reply = await self.caller(step)
            step = await asyncio.to_thread(_advance, steps, reply)
        return step.value

    def _failed(self, item: str, error: TransportError) -> None:
        self.asked.failed[item] = str(error)
        self._failed_in_a_row += 1
        if error.fatal:
            self.stop("endpoint", str(error))
        elif self._failed_in_a_row >= GIVE_UP:
            self.stop("endpoint", f"{GIVE_UP} items in a row failed, the last with: {error}")


@dataclass(frozen=True)
class _Done(Generic[Value]):
    value: Value


def _advance(steps: Steps[Value], reply: Reply | None) -> Call | _Done[Value]:
    try:
        return next(steps) if reply is None else steps.send(reply)
    except StopIteration as end:  # no future can hold one
        return _Done(end.value)
