"""What a store says about a run: outcomes, reasons, calls, money."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..store.store import OpenBatch, Outcome, Store
from ..teacher.address import public_host

#: What differs in messages that say the same: what is quoted within a sentence, ids and numbers,
#: but not the status of a reply.
_VARIES = re.compile(
    r"""(?<=\w )(?:'.+?'|".+?")(?!\w)|\b[0-9a-f]{12,}\b|(?<!HTTP )(?<!code: )\b\d+\b""", re.DOTALL
)


@dataclass
class StageUse:
    """Calls of one prompt, as far as this run rests on them."""

    calls: int = 0
    repairs: int = 0
    failures: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


@dataclass
class Blocks:
    """Outermost blocks of the accepted items: proposed, kept, and flattened by why."""

    proposed: int = 0
    kept: int = 0
    flattened: Counter[str] = field(default_factory=Counter)
    items_with_a_block: int = 0


@dataclass
class Summary:
    """One run. Its outcomes are counted, not held.

    Attributes:
        items: ids, in the order of the source.
        by_status: accepted, rejected, error and pending items.
        reasons: rejections by (stage, code); ``errors``: failed items by message.
        notes: accepted items by what was accepted with them.
        stages: use by prompt name, of the calls the outcomes rest on.
        tries: requests that came to a reply, over the life of the store; ``unanswered`` were sent
            and never answered.
        batches: those of the store that are open at the provider.
    """

    run: str
    about: dict[str, Any]
    items: list[str]
    seconds: float
    by_status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    blocks: Blocks = field(default_factory=Blocks)
    stages: dict[str, StageUse] = field(default_factory=dict)
    unanswered: int = 0
    tries: int = 0
    paid_tokens: int = 0
    paid_cost: float = 0.0
    lost_tokens: int = 0
    lost_cost: float = 0.0
    batches: list[OpenBatch] = field(default_factory=list)

    @property
    def currency(self) -> str:
        currency: str = self.about.get("prices", {}).get("currency", "USD")
        return currency

    @property
    def priced(self) -> bool:
        """Whether anything costs: `prices` are given now or were when the store paid."""
        prices = self.about.get("prices", {})
        charged = self.paid_cost or self.lost_cost or self.cost
        return bool(prices.get("input") or prices.get("output") or charged)

    def money(self, cost: float) -> str:
        """``cost`` after a number of tokens; nothing where nothing has a price."""
        return f", {cost:,.4f} {self.currency}" if self.priced else ""

    @property
    def reject_rate(self) -> float:
        done = self.by_status["accepted"] + self.by_status["rejected"]
        return self.by_status["rejected"] / done if done else 0.0

    @property
    def cost(self) -> float:
        """Of the calls the outcomes of this run rest on, whichever run paid for them."""
        return sum(stage.cost for stage in self.stages.values())


def summarise(store: Store, run: str | None = None) -> Summary:
    """The summary of ``run``, or of the one started last.

    Raises:
        StoreError: there is none.
    """
    row = store.run(run)
    ledger = store.ledger()
    tries, unanswered = store.requests()
    summary = Summary(
        run=row["run"],
        about=_about(row["about"]),
        items=json.loads(row["items"]),
        seconds=row["seconds"],
        unanswered=unanswered,
        tries=tries,
        paid_tokens=ledger.paid.tokens,
        paid_cost=ledger.paid.cost,
        lost_tokens=ledger.lost.tokens,
        lost_cost=ledger.lost.cost,
        batches=store.open_batches(),
    )
    for status, stage, code, count in store.reasons(summary.run):
        summary.by_status[status] += count
        if status == "rejected":
            summary.reasons[stage, code] += count
    summary.by_status["pending"] = len(summary.items) - summary.by_status.total()
    for outcome in store.each_outcome(summary.run, "error"):
        summary.errors[(outcome.result or {}).get("message", "")] += 1
    for outcome in store.each_outcome(summary.run, "accepted"):
        _add(summary, outcome)
    for use in store.use(summary.run):
        name, *sums = use
        summary.stages[name] = StageUse(*sums)
    return summary


def _about(written: str) -> dict[str, Any]:
    """As a run wrote it. Earlier releases wrote the whole address of the endpoint."""
    about: dict[str, Any] = json.loads(written)
    if (address := about.pop("base_url", None)) is not None:
        about["endpoint"] = public_host(address)
    return about


def alike(messages: Mapping[str, int]) -> list[tuple[str, int]]:
    """``messages`` with their counts, the most frequent first: of those that differ in quoted parts
    and numbers alone one, and that it stands for more."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for message, count in messages.items():
        groups.setdefault(_VARIES.sub("…", message), []).append((message, count))
    found = [
        (some[0][0] + (f" (and {len(some) - 1} like it)" if len(some) > 1 else ""), total)
        for some in groups.values()
        if (total := sum(count for _, count in some))
    ]
    return sorted(found, key=lambda one: -one[1])


def _add(summary: Summary, outcome: Outcome) -> None:
    """Count notes and blocks of an accepted item."""
    result = outcome.result or {}
    codes = [note["code"] for note in result.get("notes", ())]
    summary.notes.update(set(codes))
    blocks, counts = summary.blocks, result.get("blocks", {})
    blocks.proposed += counts.get("proposed", 0)
    blocks.kept += counts.get("kept", 0)
    blocks.items_with_a_block += counts.get("kept", 0) > 0
    blocks.flattened.update(
        code.removeprefix("flattened: ")
        for code in codes
        if code.startswith("flattened: ") or code == "costly-block"
    )
