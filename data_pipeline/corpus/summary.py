"""What a store says about a run: outcomes, reasons, calls, money."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..store.store import Outcome, Store


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
class Summary:
    """One run.

    Attributes:
        items: how many it has; ``outcomes`` holds those that are settled or failed.
        stages: use by prompt name, of the calls the settled outcomes rest on.
        mended: finding codes by how many accepted items had a reply rejected and mended.
        unanswered: requests that were sent and never answered, over the life of the store.
    """

    run: str
    about: dict[str, Any]
    items: list[str]
    outcomes: dict[str, Outcome]
    seconds: float
    stages: dict[str, StageUse] = field(default_factory=dict)
    unanswered: int = 0
    tries: int = 0
    paid_tokens: int = 0
    paid_cost: float = 0.0
    lost_tokens: int = 0
    lost_cost: float = 0.0

    @property
    def by_status(self) -> Counter[str]:
        counts = Counter(outcome.status for outcome in self.outcomes.values())
        counts["pending"] = len(self.items) - len(self.outcomes)
        return counts

    @property
    def reasons(self) -> Counter[tuple[str, str]]:
        """Rejections by (stage, code)."""
        return Counter(
            (outcome.stage, outcome.code)
            for outcome in self.outcomes.values()
            if outcome.status == "rejected"
        )

    @property
    def currency(self) -> str:
        currency: str = self.about.get("prices", {}).get("currency", "USD")
        return currency

    @property
    def reject_rate(self) -> float:
        counts = self.by_status
        done = counts["accepted"] + counts["rejected"]
        return counts["rejected"] / done if done else 0.0

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
    items = json.loads(row["items"])
    outcomes = {
        item: outcome for item, outcome in store.outcomes(row["run"]).items() if item in set(items)
    }
    ledger = store.ledger()
    summary = Summary(
        run=row["run"],
        about=json.loads(row["about"]),
        items=items,
        outcomes={item: outcomes[item] for item in items if item in outcomes},
        seconds=row["seconds"],
        paid_tokens=ledger.paid.tokens,
        paid_cost=ledger.paid.cost,
        lost_tokens=ledger.lost.tokens,
        lost_cost=ledger.lost.cost,
    )
    used = {key for outcome in outcomes.values() for key in outcome.keys}
    for call in store.calls():
        summary.unanswered += call["lost"]
        if call["state"] != "done":
            continue
        summary.tries += call["tries"]
        if call["key"] in used:
            _add(summary.stages.setdefault(call["stage"], StageUse()), call)
    return summary


def _add(use: StageUse, call: Any) -> None:
    use.calls += 1
    use.repairs += call["attempt"] > 1
    use.failures += call["failure"] is not None
    use.input_tokens += call["input_tokens"]
    use.cached_tokens += call["cached_tokens"]
    use.output_tokens += call["output_tokens"]
    use.cost += call["cost"]
    use.seconds += call["seconds"]
