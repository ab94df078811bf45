"""Batches: calls that lie in a file at the provider and are answered together, hours later.

A batch is a row under a name of ours, which is the owner of its calls. Both are written *before*
anything is sent, so that whichever process comes next can go on:

========= ====================================================================================
set       meaning
========= ====================================================================================
``name``  nothing was created: the file can be uploaded, or uploaded again
``file``  the file is uploaded; a batch of it may have been created, the provider's list tells
``id``    the batch is created: look at it until it has ended
closed    its calls are settled
========= ====================================================================================

``owner`` is the process that sends and polls it. Where that died, another takes the batch over.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..teacher.budget import UNLIMITED, Amount, Budget
from ..teacher.call import Call, Reply
from .calls import Calls, Opened


@dataclass(frozen=True)
class OpenBatch:
    """A batch whose calls are not all settled.

    Attributes:
        base_url: the endpoint it was made for.
        file, id: as the provider names them, None until they are known.
        status: as the provider said last; ``answered`` of its calls were, by then.
        calls: calls it still holds.
        opened_at: seconds since 1970.
    """

    name: str
    base_url: str
    owner: str
    file: str | None
    id: str | None
    status: str | None
    answered: int
    calls: int
    opened_at: float

    def __str__(self) -> str:
        if self.id is None:
            return f"batch {self.name} ({self.holds}, not known to be created)"
        return f"batch {self.id} ({self.holds}, {self.status or 'created'})"

    @property
    def holds(self) -> str:
        """How many calls, in words."""
        return f"{self.calls:,} call{'s' if self.calls != 1 else ''}"


@dataclass(frozen=True)
class Filing:
    """A call that is to go into a batch: what it may take, and for the how many-th time it goes."""

    call: Call
    worst: Amount
    tries: int = 1


@dataclass(frozen=True)
class InBatch:
    """The call is in the open batch of that name already."""

    name: str


class Batches(Calls):
    """The batches of a store."""

    def alive(self, owner: str) -> bool:
        """Whether ``owner`` is a living process or an open batch."""
        return super().alive(owner) or self._is_open(owner)

    def _is_open(self, name: str) -> bool:
        query = "SELECT 1 FROM batches WHERE name = ? AND closed_at IS NULL"
        return self._db.execute(query, (name,)).fetchone() is not None

    def fill_batch(
        self, name: str, base_url: str, filings: Sequence[Filing], budget: Budget = UNLIMITED
    ) -> list[Reply | Opened | InBatch]:
        """Put calls into the batch ``name``, which is made with the first of them. What each may
        take is held until it is settled.

        Returns:
            For each: :attr:`Opened.OURS` where it is in the batch now, else its reply or why not.
        """
        with self._transaction() as db:
            return [self._file(db, name, base_url, filing, budget) for filing in filings]

    def _file(
        self, db: sqlite3.Connection, name: str, base_url: str, filing: Filing, budget: Budget
    ) -> Reply | Opened | InBatch:
        call, worst = filing.call, filing.worst
        found = self._found(db, call.key)
        if found is Opened.BUSY:
            (owner,) = db.execute("SELECT owner FROM calls WHERE key = ?", (call.key,)).fetchone()
            return InBatch(owner) if self._is_open(owner) else found
        if found is not None:
            return found
        if not self.affords(call.key, worst, budget):
            return Opened.DEAR
        db.execute(
            "INSERT OR IGNORE INTO batches (name, base_url, owner, opened_at) VALUES (?, ?, ?, ?)",
            (name, base_url, self.lease.owner, time.time()),
        )
        self._write_open(db, call, worst, name, filing.tries)
        return Opened.OURS

    def batch_calls(self, name: str) -> Iterator[sqlite3.Row]:
        """The rows of the calls that the batch holds, by key, in pages."""
        query = "SELECT * FROM calls WHERE state = 'open' AND owner = ? AND key > ?"
        return self._pages(query, (name,))

    def batched(self, name: str, keys: Sequence[str]) -> dict[str, sqlite3.Row]:
        """The rows of those of the calls ``keys`` that the batch holds, by key."""
        rows = self._db.execute(
            "SELECT * FROM calls WHERE key IN (SELECT value FROM json_each(?)) "
            "AND state = 'open' AND owner = ?",
            (json.dumps(list(keys)), name),
        )
        return {row["key"]: row for row in rows}

    def open_batches(self) -> list[OpenBatch]:
        """The batches whose calls are not all settled, oldest first."""
        rows = self._db.execute(
            """SELECT name, base_url, owner, file, id, status, answered, opened_at,
                   (SELECT count(*) FROM calls WHERE state = 'open' AND calls.owner = batches.name)
                   AS calls
               FROM batches WHERE closed_at IS NULL ORDER BY opened_at"""
        )
        return [OpenBatch(**row) for row in rows]

    def take_batch(self, name: str) -> bool:
        """Become the one who polls the batch, where nobody living does."""
        with self._transaction() as db:
            query = "SELECT owner FROM batches WHERE name = ? AND closed_at IS NULL"
            row = db.execute(query, (name,)).fetchone()
            if row is None or (row["owner"] != self.lease.owner and self.lease.alive(row["owner"])):
                return False
            db.execute("UPDATE batches SET owner = ? WHERE name = ?", (self.lease.owner, name))
        return True

    def note_batch(
        self,
        name: str,
        *,
        file: str | None = None,
        id: str | None = None,
        status: str | None = None,
        answered: int | None = None,
    ) -> None:
        """Write down what the provider said of the batch; None leaves what is there."""
        self._db.execute(
            """UPDATE batches SET file = coalesce(?, file), id = coalesce(?, id),
                   status = coalesce(?, status), answered = coalesce(?, answered)
               WHERE name = ?""",
            (file, id, status, answered, name),
        )

    def settle_batch(
        self, name: str, replies: Sequence[tuple[str, Reply]], failed: Sequence[tuple[str, int]]
    ) -> None:
        """Write the replies to calls of the batch, by key, and give up those that ``failed``, each
        with how many of its requests were perhaps charged (0 or 1)."""
        with self._transaction() as db:
            for key, reply in replies:
                self._close(db, key, reply)
            for key, unanswered in failed:
                self._abandon(db, key, unanswered)

    def close_batch(self, name: str, *, unanswered: int = 0) -> None:
        """The batch is done with. Calls that it still holds are free again, each with so many
        requests (0 or 1) that were perhaps charged."""
        held = "state = 'open' AND owner = ?"
        with self._transaction() as db:
            query = "SELECT total(worst_tokens), total(worst_cost) FROM calls"
            tokens, cost = db.execute(f"{query} WHERE {held}", (name,)).fetchone()
            db.execute(f"DELETE FROM calls WHERE {held} AND lost + ? = 0", (name, unanswered))
            db.execute(
                f"UPDATE calls SET state = 'lost', owner = NULL, lost = lost + ? WHERE {held}",
                (unanswered, name),
            )
            self._give_back(db, Amount(int(tokens), cost))
            self._add_lost(db, Amount(int(tokens), cost), unanswered)
            query = "UPDATE batches SET closed_at = ? WHERE name = ?"
            db.execute(query, (time.time(), name))
