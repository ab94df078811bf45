"""A run of questions from the command line: endpoint, limits, store, Ctrl-C, progress."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from ..config import BudgetPart, ConfigError, EndpointPart, PricesPart, SamplingPart, readable
from ..store.store import Store
from ..teacher.budget import Budget, Prices
from ..teacher.call import Call, Sampling
from ..teacher.caller import StoredCaller
from ..teacher.transport import Endpoint, Transport
from .asking import Asked, Asking, Steps

Value = TypeVar("Value")


@dataclass(frozen=True)
class Session:
    """Where calls go, what they may cost, and the store that keeps them."""

    endpoint: Endpoint
    sampling: Sampling
    prices: Prices
    budget: Budget
    store: Path

    @classmethod
    def of(
        cls,
        *,
        endpoint: Mapping[str, Any],
        sampling: Mapping[str, Any],
        prices: Mapping[str, Any],
        budget: Mapping[str, Any],
        store: Path,
    ) -> Session:
        """Check what was given; None stands for what was not.

        Raises:
            ConfigError: a value that cannot be, a key that is not there, or a limit in money
                without prices.
        """

        def given(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if value is not None}

        for name, option in (("base_url", "--base-url"), ("model", "--model")):
            if not endpoint.get(name):
                raise ConfigError(
                    f"no {option}: this analysis asks an LLM behind an OpenAI-compatible endpoint; "
                    "give its address up to and with /v1, and the model's name there"
                )
        if budget.get("cost") is not None and not (prices.get("input") or prices.get("output")):
            raise ConfigError("--budget-cost needs --price-input and --price-output")
        try:
            return cls(
                EndpointPart(**given(endpoint)).build(),
                Sampling(**SamplingPart(**given(sampling)).model_dump()),
                Prices(**PricesPart(**given(prices)).model_dump()),
                Budget(**BudgetPart(**given(budget)).model_dump()),
                store,
            )
        except pydantic.ValidationError as error:
            raise ConfigError(readable(error)) from error

    def ask(self, items: Mapping[str, Steps[Value]], title: str) -> tuple[Asked[Value], str]:
        """Ask everything; what came back, and a line on what it took.

        Raises:
            StoreError: the file is no store.
            asyncio.CancelledError: interrupted twice.
        """
        with Store(self.store) as store:
            return asyncio.run(self._ask(items, store, title))

    async def _ask(
        self, items: Mapping[str, Steps[Value]], store: Store, title: str
    ) -> tuple[Asked[Value], str]:
        async with Transport(self.endpoint, self.prices) as transport:
            caller = StoredCaller(store, transport, self.budget)
            with _Bar(title, len(items)) as bar:
                asking = Asking(
                    items, caller, workers=self.endpoint.concurrency + 8, observe=bar.update
                )
                asked = await _interruptible(asking)
            tally = caller.tally
            cost = f", {tally.cost:,.4f} {self.prices.currency}" if tally.cost else ""
            took = (
                f"{tally.sent:,} calls, {tally.tokens:,} tokens{cost}; "
                f"{tally.from_store:,} replies were in the store"
            )
            return asked, took


async def _interruptible(asking: Asking[Value]) -> Asked[Value]:
    """Run; the first interrupt ends it gently, the second at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        if asking.caller.stopping.is_set():
            task.cancel()
            return
        print("\nending after the calls in flight; Ctrl-C again drops them", file=sys.stderr)
        asking.stop()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    try:
        return await asking.run()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


class _Bar:
    """A progress bar on standard error with the time left."""

    def __init__(self, title: str, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from stamina.instrumentation import set_on_retry_hooks

        set_on_retry_hooks([])  # a log line for each would tear the bar
        self._bar = Bar(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def update(self, done: int) -> None:
        self._bar.update(self._task, completed=done)


def pending(items: Mapping[str, Callable[[], Steps[Any]]], store: Path) -> list[Call]:
    """The first calls of those items whose reply ``store`` does not hold; sends nothing."""
    calls = [next(begin()) for begin in items.values()]
    if not store.exists() or not store.stat().st_size:
        return calls
    with Store(store, new=False) as opened:
        return [call for call in calls if opened.reply(call.key) is None]
