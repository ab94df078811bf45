"""What calls cost: prices, the worst case of a call, and the limits of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .call import Call, Message, Usage

# Chat templates put role and turn marks around every message; no known one takes more.
_TOKENS_PER_MESSAGE = 16


class BudgetExhausted(RuntimeError):
    """The next call could exceed the budget; nothing was sent."""


@dataclass(frozen=True)
class Amount:
    """Tokens and money."""

    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.cost + other.cost)


@dataclass(frozen=True)
class Prices:
    """Per million tokens, in any one currency. ``cached_input`` None: as dear as other input."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    currency: str = "USD"

    def of(self, usage: Usage) -> float:
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = usage.input - usage.cached
        return (fresh * self.input + usage.cached * cached + usage.output * self.output) / 1e6

    def times(self, factor: float) -> Prices:
        """The same prices by another rate."""
        cached = None if self.cached_input is None else self.cached_input * factor
        return Prices(self.input * factor, self.output * factor, cached, self.currency)


@dataclass(frozen=True)
class Budget:
    """Limits over the life of a store; None is no limit."""

    tokens: int | None = None
    cost: float | None = None

    def allows(self, amount: Amount) -> bool:
        return (self.tokens is None or amount.tokens <= self.tokens) and (
            self.cost is None or amount.cost <= self.cost
        )


#: No limit, no price.
UNLIMITED = Budget()
FREE = Prices()


def most_input_tokens(messages: Sequence[Message]) -> int:
    """No byte-level tokenizer makes more tokens than this of ``messages``."""
    return sum(
        len(message.content.encode("utf-8", "replace")) + _TOKENS_PER_MESSAGE
        for message in messages
    )


def worst_case(call: Call, prices: Prices) -> Amount:
    """The most that one request of ``call`` can cost."""
    usage = Usage(most_input_tokens(call.messages), call.sampling.max_tokens)
    return Amount(usage.input + usage.output, prices.of(usage))
