"""The books of several machines: what their stores have paid and hold, against one budget."""

from __future__ import annotations

from pathlib import Path

from ..teacher.budget import Amount, Budget
from .calls import Calls


class Books(Calls):
    """The ledger that the workers of all machines ask before they send a request.

    It outlives them in a file of its own. What a worker that died has held counts as lost.
    """

    def __init__(self, path: Path, budget: Budget):
        super().__init__(path)
        self.budget = budget
        self._held: dict[str, Amount] = {}
        self._of_host: dict[str, list[str]] = {}
        with self._transaction() as db:  # of workers of an earlier run that was killed
            db.execute(
                "UPDATE ledger SET lost_tokens = lost_tokens + held_tokens, "
                "lost_cost = lost_cost + held_cost, held_tokens = 0, held_cost = 0"
            )

    def join(self, host: str, owner: str) -> list[str]:
        """Let ``owner`` in; the others of its machine, which can tell whether they are alive."""
        others = self._of_host.setdefault(host, [])
        self._of_host[host] = [*others, owner]
        return others

    def bury(self, owner: str) -> None:
        """``owner`` is dead: what it had in flight was perhaps charged."""
        worst = self._held.pop(owner, Amount())
        with self._transaction():
            self._let_go(worst)
            self._add_lost(self._db, worst, 1)

    def reserve(self, owner: str, worst: Amount) -> bool:
        """Hold ``worst`` for ``owner``, if the budget allows it."""
        with self._transaction() as db:
            if not self.affords("", worst, self.budget):
                return False
            db.execute(
                "UPDATE ledger SET held_tokens = held_tokens + ?, held_cost = held_cost + ?",
                (worst.tokens, worst.cost),
            )
        self._held[owner] = self._held.get(owner, Amount()) + worst
        return True

    def settle(self, owner: str, worst: Amount, paid: Amount, unanswered: int) -> None:
        """Let ``worst`` go, for which ``paid`` was charged, and ``unanswered`` requests perhaps."""
        if owner in self._held:
            self._held[owner] += Amount(-worst.tokens, -worst.cost)
        with self._transaction() as db:
            self._let_go(worst)
            db.execute(
                "UPDATE ledger SET paid_tokens = paid_tokens + ?, paid_cost = paid_cost + ?",
                (paid.tokens, paid.cost),
            )
            self._add_lost(db, worst, unanswered)

    def _let_go(self, worst: Amount) -> None:
        self._db.execute(
            "UPDATE ledger SET held_tokens = max(0, held_tokens - ?), "
            "held_cost = max(0, held_cost - ?)",
            (worst.tokens, worst.cost),
        )
