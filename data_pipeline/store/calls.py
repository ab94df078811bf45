"""Calls: what was sent, what came back, and the books.

A call is a row under its key (:attr:`~.call.Call.key`). The row is written *before* the request is
sent, so that whatever happens to the process, the store knows what may have been paid:

====== ===========================================================================
state  meaning
====== ===========================================================================
open   in flight, by ``owner``: a process, or a batch (:mod:`.batches`)
done   answered; ``reply``, usage and cost are final
lost   sent and never answered (killed, timed out): perhaps paid, free to be sent
====== ===========================================================================

What an open or a lost request may have cost is held against the budget in full.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum, auto

from ..teacher.budget import UNLIMITED, Amount, Budget
from ..teacher.call import Call, Failure, Message, Reply, Sampling, Usage
from .database import Database, StoreError


class Opened(Enum):
    """What :meth:`Store.open_call` found where there is no reply yet."""

    OURS = auto()  # the row is ours: send the request
    BUSY = auto()  # another living process has it in flight
    DEAR = auto()  # it does not fit the budget


@dataclass(frozen=True)
class Ledger:
    """What was paid, what is in flight at its worst case, and what unanswered requests may have
    cost at most."""

    paid: Amount
    held: Amount
    lost: Amount


class Calls(Database):
    """The calls of a store and its ledger."""

    def recover(self) -> None:
        """Requests of processes that died are lost, their items are free."""
        with self._transaction() as db:
            query = "SELECT DISTINCT owner FROM calls WHERE state = 'open'"
            for (owner,) in db.execute(query).fetchall():
                if not self.alive(owner):
                    rows = db.execute(
                        "SELECT key FROM calls WHERE state = 'open' AND owner = ?", (owner,)
                    )
                    for (key,) in rows.fetchall():
                        self._lose(db, key)

    def alive(self, owner: str) -> bool:
        """Whether what ``owner`` has open may still be answered."""
        return self.lease.alive(owner)

    def reply(self, key: str) -> Reply | None:
        """The reply to a call that was answered before."""
        row = self._db.execute(
            "SELECT * FROM calls WHERE key = ? AND state = 'done'", (key,)
        ).fetchone()
        return _reply(row) if row else None

    def open_call(self, call: Call, worst: Amount, budget: Budget = UNLIMITED) -> Reply | Opened:
        """Reserve ``call``, or give its reply. ``worst`` is held until the call is closed."""
        with self._transaction() as db:
            found = self._found(db, call.key)
            if found is not None:
                return found
            if not self.affords(call.key, worst, budget):
                return Opened.DEAR
            self._write_open(db, call, worst, self.lease.owner)
        return Opened.OURS

    def _found(self, db: sqlite3.Connection, key: str) -> Reply | Opened | None:
        """The reply to a call, or that it is in flight; None where it is free to be sent."""
        row = db.execute("SELECT * FROM calls WHERE key = ?", (key,)).fetchone()
        if row is not None and row["state"] == "done":
            return _reply(row)
        if row is not None and row["state"] == "open":
            if self.alive(row["owner"]):
                return Opened.BUSY
            self._lose(db, key)
        return None

    def affords(self, key: str, worst: Amount, budget: Budget) -> bool:
        """Whether a call that may take ``worst`` fits ``budget``."""
        ledger = self.ledger()
        return budget.allows(ledger.paid + ledger.held + ledger.lost + worst)

    def _write_open(
        self,
        db: sqlite3.Connection,
        call: Call,
        worst: Amount,
        owner: str,
        tries: int | None = None,
    ) -> None:
        """``tries``: of a call that was asked before, this request included."""
        messages = [asdict(message) for message in call.messages]
        db.execute(
            """INSERT INTO calls (key, item, stage, subject, attempt, stage_version, prompt,
                   prompt_hash, model, sampling, input_hash, messages, state, owner, opened_at,
                   worst_tokens, worst_cost, tries)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', ?, ?, ?, ?, ?)
               ON CONFLICT (key) DO UPDATE SET state = 'open', owner = excluded.owner,
                   opened_at = excluded.opened_at, worst_tokens = excluded.worst_tokens,
                   worst_cost = excluded.worst_cost, tries = excluded.tries""",
            (
                call.key,
                call.item,
                call.stage,
                call.subject,
                call.attempt,
                call.stage_version,
                call.prompt,
                call.prompt_hash,
                call.model,
                json.dumps(call.sampling.fields()),
                call.input_hash,
                json.dumps(messages, ensure_ascii=False),
                owner,
                time.time(),
                worst.tokens,
                worst.cost,
                tries,
            ),
        )
        db.execute(
            "UPDATE ledger SET held_tokens = held_tokens + ?, held_cost = held_cost + ?",
            (worst.tokens, worst.cost),
        )

    def close_call(self, key: str, reply: Reply) -> None:
        """Write the reply of a call this process has open."""
        with self._transaction() as db:
            self._close(db, key, reply)

    def abandon_call(self, key: str, unanswered: int) -> None:
        """Give up a call this process has open, ``unanswered`` requests of which were sent."""
        with self._transaction() as db:
            self._abandon(db, key, unanswered)

    def _close(self, db: sqlite3.Connection, key: str, reply: Reply) -> None:
        worst = self._release(db, key)
        usage = reply.usage
        db.execute(
            """UPDATE calls SET state = 'done', owner = NULL, closed_at = ?, reply = ?,
                   failure = ?, input_tokens = ?, cached_tokens = ?, output_tokens = ?,
                   cost = ?, tries = ?, lost = lost + ?, seconds = ? WHERE key = ?""",
            (
                time.time(),
                reply.text,
                reply.failure,
                usage.input,
                usage.cached,
                usage.output,
                reply.cost,
                reply.tries,
                reply.unanswered,
                reply.seconds,
                key,
            ),
        )
        db.execute(
            "UPDATE ledger SET paid_tokens = paid_tokens + ?, paid_cost = paid_cost + ?",
            (usage.input + usage.output, reply.cost),
        )
        self._add_lost(db, worst, reply.unanswered)

    def _abandon(self, db: sqlite3.Connection, key: str, unanswered: int) -> None:
        worst = self._release(db, key)
        db.execute(
            "UPDATE calls SET state = 'lost', owner = NULL, lost = lost + ? WHERE key = ?",
            (unanswered, key),
        )
        db.execute("DELETE FROM calls WHERE key = ? AND lost = 0", (key,))
        self._add_lost(db, worst, unanswered)

    def _lose(self, db: sqlite3.Connection, key: str) -> None:
        worst = self._release(db, key)
        db.execute(
            "UPDATE calls SET state = 'lost', owner = NULL, lost = lost + 1 WHERE key = ?", (key,)
        )
        self._add_lost(db, worst, 1)

    def _release(self, db: sqlite3.Connection, key: str) -> Amount:
        row = db.execute(
            "SELECT worst_tokens, worst_cost FROM calls WHERE key = ? AND state = 'open'", (key,)
        ).fetchone()
        if row is None:
            raise StoreError(f"call {key[:12]} is not open")
        worst = Amount(row["worst_tokens"], row["worst_cost"])
        self._give_back(db, worst)
        return worst

    def _give_back(self, db: sqlite3.Connection, worst: Amount) -> None:
        db.execute(
            "UPDATE ledger SET held_tokens = held_tokens - ?, held_cost = max(0, held_cost - ?)",
            (worst.tokens, worst.cost),
        )

    def _add_lost(self, db: sqlite3.Connection, worst: Amount, requests: int) -> None:
        db.execute(
            "UPDATE ledger SET lost_tokens = lost_tokens + ?, lost_cost = lost_cost + ?",
            (worst.tokens * requests, worst.cost * requests),
        )

    def ledger(self) -> Ledger:
        """What the calls of this store have cost so far."""
        row = self._db.execute("SELECT * FROM ledger").fetchone()
        return Ledger(
            Amount(row["paid_tokens"], row["paid_cost"]),
            Amount(row["held_tokens"], row["held_cost"]),
            Amount(row["lost_tokens"], row["lost_cost"]),
        )

    def calls(self, item: str | None = None) -> Iterator[sqlite3.Row]:
        """The rows of the calls of ``item`` in the order they were opened, or of all calls by key,
        in pages."""
        if item is None:
            yield from self._pages("SELECT * FROM calls WHERE key > ?")
            return
        query = "SELECT * FROM calls WHERE item = ? ORDER BY opened_at, attempt"
        yield from self._db.execute(query, (item,))

    def accounts(self, keys: Sequence[str]) -> dict[str, sqlite3.Row]:
        """Stage, attempt, tokens and cost of the calls ``keys`` that are answered, by key."""
        rows = self._db.execute(
            "SELECT key, stage, attempt, input_tokens, output_tokens, cost FROM calls "
            "INDEXED BY calls_used WHERE key IN (SELECT value FROM json_each(?)) "
            "AND state = 'done'",
            (json.dumps(list(keys)),),
        )
        return {row["key"]: row for row in rows}

    def use(self, run: str) -> list[sqlite3.Row]:
        """Sums over the answered calls that the outcomes of ``run`` rest on, each counted once, by
        prompt, in the order of their first calls. Attempts of ``sample`` are draws, no repairs."""
        return self._db.execute(
            """SELECT c.stage, count(*) AS calls,
                   sum(c.attempt > 1 AND c.stage != 'sample') AS repairs,
                   sum(c.failure IS NOT NULL) AS failures, sum(c.input_tokens) AS input_tokens,
                   sum(c.cached_tokens) AS cached_tokens, sum(c.output_tokens) AS output_tokens,
                   sum(c.cost) AS cost, sum(c.seconds) AS seconds
               FROM (SELECT DISTINCT one.value AS key FROM outcomes, json_each(outcomes.keys) AS one
                     WHERE run = ? AND status IS NOT NULL) AS used
               JOIN calls AS c INDEXED BY calls_used ON c.key = used.key
               WHERE c.state = 'done' GROUP BY c.stage ORDER BY min(c.opened_at)""",
            (run,),
        ).fetchall()

    def requests(self) -> tuple[int, int]:
        """Requests that came to a reply, those before it included, and those never answered."""
        row = self._db.execute(
            "SELECT coalesce(sum(CASE state WHEN 'done' THEN tries END), 0), "
            "coalesce(sum(lost), 0) FROM calls INDEXED BY calls_used"
        ).fetchone()
        return row[0], row[1]


def call_of(row: sqlite3.Row) -> Call:
    """The call that a row was written for."""
    return Call(
        item=row["item"],
        stage=row["stage"],
        stage_version=row["stage_version"],
        prompt=row["prompt"],
        prompt_hash=row["prompt_hash"],
        model=row["model"],
        sampling=Sampling(**json.loads(row["sampling"])),
        messages=tuple(Message(**message) for message in json.loads(row["messages"])),
        attempt=row["attempt"],
        subject=row["subject"],
    )


def _reply(row: sqlite3.Row) -> Reply:
    failure: Failure | None = row["failure"]
    usage = Usage(row["input_tokens"], row["output_tokens"], row["cached_tokens"])
    return Reply(row["reply"], failure, usage, row["cost"], row["tries"], 0, row["seconds"])
