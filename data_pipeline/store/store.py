"""The store: every call and every outcome in one SQLite file.

A call is a row under its key (:attr:`~.call.Call.key`). The row is written *before* the request is
sent, so that whatever happens to the process, the store knows what may have been paid:

====== ===========================================================================
state  meaning
====== ===========================================================================
open   in flight, by ``owner``
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ..teacher.budget import UNLIMITED, Amount, Budget
from ..teacher.call import Call, Failure, Reply, Usage
from .lease import Lease

Status = Literal["accepted", "rejected", "error"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    item TEXT NOT NULL, stage TEXT NOT NULL, subject TEXT NOT NULL, attempt INTEGER NOT NULL,
    stage_version TEXT NOT NULL, prompt TEXT NOT NULL, prompt_hash TEXT NOT NULL,
    model TEXT NOT NULL, sampling TEXT NOT NULL, input_hash TEXT NOT NULL, messages TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'done', 'lost')),
    owner TEXT, opened_at REAL, closed_at REAL,
    worst_tokens INTEGER NOT NULL, worst_cost REAL NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0,
    reply TEXT, failure TEXT,
    input_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, cost REAL,
    tries INTEGER, seconds REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_of_item ON calls (item);
CREATE INDEX IF NOT EXISTS calls_in_flight ON calls (state) WHERE state = 'open';
CREATE TABLE IF NOT EXISTS ledger (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    paid_tokens INTEGER NOT NULL, paid_cost REAL NOT NULL,
    held_tokens INTEGER NOT NULL, held_cost REAL NOT NULL,
    lost_tokens INTEGER NOT NULL, lost_cost REAL NOT NULL
);
INSERT OR IGNORE INTO ledger VALUES (1, 0, 0, 0, 0, 0, 0);
CREATE TABLE IF NOT EXISTS items (item TEXT PRIMARY KEY, columns TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, about TEXT NOT NULL, started_at REAL NOT NULL, items TEXT NOT NULL,
    seconds REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS outcomes (
    run TEXT NOT NULL, item TEXT NOT NULL, owner TEXT,
    status TEXT CHECK (status IN ('accepted', 'rejected', 'error')),
    stage TEXT, code TEXT, result TEXT, keys TEXT, closed_at REAL,
    PRIMARY KEY (run, item)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class StoreError(RuntimeError):
    """The file is no store, one of a version this release does not know, or cannot be read or
    written any more."""


def store_error(path: Path, error: Exception) -> StoreError:
    """What went wrong with the file in ``path``, in one line."""
    said = str(error)
    if any(one in said for one in ("malformed", "not a database", "no such", "already exists")):
        return StoreError(
            f"{path} is not a curation store, or is damaged: {said}. Name another with --store, "
            f"or restore it (`sqlite3 {path} .recover` prints what can be read)"
        )
    return StoreError(
        f"{path} cannot be read or written: {said}. What was written before is kept; see that "
        "there is room and that file and folder are writable, and run the same command again"
    )


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


@dataclass(frozen=True)
class Outcome:
    """What became of one item in one run. ``result`` is the record or the rejection, as JSON;
    ``keys`` are the calls it rests on."""

    item: str
    status: Status
    stage: str = ""
    code: str = ""
    result: dict[str, Any] | None = None
    keys: tuple[str, ...] = ()


class Store:
    """One SQLite file, opened by any number of processes of one machine at a time."""

    def __init__(self, path: Path):
        self.path = path
        if path.is_dir():
            raise StoreError(f"{path} is a folder; a store is one file, name one in it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=60, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise store_error(path, error) from error
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare()
            self.lease = Lease(path.with_name(path.name + ".leases"))
            self._recover()
        except (OSError, sqlite3.Error) as error:
            self._db.close()
            raise store_error(path, error) from error

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, 1):
            raise StoreError(
                f"{self.path} was written by a newer release (schema {version}, this one knows 1); "
                "upgrade sglang-multiverse"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a reply that was paid for survives a crash
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _recover(self) -> None:
        """Requests of processes that died are lost, their items are free."""
        with self._transaction() as db:
            query = "SELECT DISTINCT owner FROM calls WHERE state = 'open'"
            for (owner,) in db.execute(query).fetchall():
                if not self.lease.alive(owner):
                    rows = db.execute(
                        "SELECT key FROM calls WHERE state = 'open' AND owner = ?", (owner,)
                    )
                    for (key,) in rows.fetchall():
                        self._lose(db, key)

    def close(self) -> None:
        self.lease.release()
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- calls -------------------------------------------------------------------------------

    def reply(self, key: str) -> Reply | None:
        """The reply to a call that was answered before."""
        row = self._db.execute(
            "SELECT * FROM calls WHERE key = ? AND state = 'done'", (key,)
        ).fetchone()
        return _reply(row) if row else None

    def open_call(self, call: Call, worst: Amount, budget: Budget = UNLIMITED) -> Reply | Opened:
        """Reserve ``call``, or give its reply. ``worst`` is held until the call is closed."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM calls WHERE key = ?", (call.key,)).fetchone()
            if row is not None and row["state"] == "done":
                return _reply(row)
            if row is not None and row["state"] == "open":
                if self.lease.alive(row["owner"]):
                    return Opened.BUSY
                self._lose(db, call.key)
            ledger = self.ledger()
            if not budget.allows(ledger.paid + ledger.held + ledger.lost + worst):
                return Opened.DEAR
            self._write_open(db, call, worst)
            db.execute(
                "UPDATE ledger SET held_tokens = held_tokens + ?, held_cost = held_cost + ?",
                (worst.tokens, worst.cost),
            )
        return Opened.OURS

    def _write_open(self, db: sqlite3.Connection, call: Call, worst: Amount) -> None:
        messages = [asdict(message) for message in call.messages]
        db.execute(
            """INSERT INTO calls (key, item, stage, subject, attempt, stage_version, prompt,
                   prompt_hash, model, sampling, input_hash, messages, state, owner, opened_at,
                   worst_tokens, worst_cost)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', ?, ?, ?, ?)
               ON CONFLICT (key) DO UPDATE SET state = 'open', owner = excluded.owner,
                   opened_at = excluded.opened_at, worst_tokens = excluded.worst_tokens,
                   worst_cost = excluded.worst_cost""",
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
                self.lease.owner,
                time.time(),
                worst.tokens,
                worst.cost,
            ),
        )

    def close_call(self, key: str, reply: Reply) -> None:
        """Write the reply of a call this process has open."""
        with self._transaction() as db:
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

    def abandon_call(self, key: str, unanswered: int) -> None:
        """Give up a call this process has open, ``unanswered`` requests of which were sent."""
        with self._transaction() as db:
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
        db.execute(
            "UPDATE ledger SET held_tokens = held_tokens - ?, held_cost = max(0, held_cost - ?)",
            (worst.tokens, worst.cost),
        )
        return worst

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
        """The rows of all calls, or of those of ``item``, in the order they were opened."""
        where = "" if item is None else "WHERE item = ?"
        values: Sequence[str] = () if item is None else (item,)
        query = f"SELECT * FROM calls {where} ORDER BY opened_at, attempt"
        yield from self._db.execute(query, values)

    # --- items and outcomes ------------------------------------------------------------------

    def put_run(self, run: str, about: dict[str, Any], items: dict[str, dict[str, Any]]) -> None:
        """Register a run over ``items`` (id → source columns) and make it the current one. Items
        that an earlier pass of it had, with another limit, stay its items."""
        with self._transaction() as db:
            row = db.execute("SELECT items FROM runs WHERE run = ?", (run,)).fetchone()
            known = json.loads(row["items"]) if row is not None else []
            every = list(dict.fromkeys([*items, *known]))
            db.executemany(
                "INSERT INTO items VALUES (?, ?) ON CONFLICT (item) DO UPDATE SET "
                "columns = excluded.columns WHERE columns != excluded.columns",
                [(item, json.dumps(columns, default=str)) for item, columns in items.items()],
            )
            db.execute(
                "INSERT INTO runs (run, about, started_at, items) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (run) DO UPDATE SET started_at = excluded.started_at, "
                "about = excluded.about, items = excluded.items",
                (run, json.dumps(about), time.time(), json.dumps(every)),
            )

    def add_seconds(self, run: str, seconds: float) -> None:
        """Add to the time a run has taken."""
        self._db.execute("UPDATE runs SET seconds = seconds + ? WHERE run = ?", (seconds, run))

    def run(self, run: str | None = None) -> sqlite3.Row:
        """The row of ``run``, or of the one started last.

        Raises:
            StoreError: there is none.
        """
        where = "" if run is None else "WHERE run = ?"
        row = self._db.execute(
            f"SELECT * FROM runs {where} ORDER BY started_at DESC", () if run is None else (run,)
        ).fetchone()
        if row is None:
            named = f" {run!r}" if run is not None else "; start one with `multiverse curate run`"
            raise StoreError(f"{self.path} holds no run{named}")
        return row

    def claim(self, run: str, item: str) -> bool:
        """Take ``item`` unless it is settled or another living process has it."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT owner, status FROM outcomes WHERE run = ? AND item = ?", (run, item)
            ).fetchone()
            if row is not None:
                settled = row["status"] in ("accepted", "rejected")
                if settled or (row["owner"] and self.lease.alive(row["owner"])):
                    return False
            db.execute(
                "INSERT OR REPLACE INTO outcomes (run, item, owner) VALUES (?, ?, ?)",
                (run, item, self.lease.owner),
            )
        return True

    def settled(self, run: str, item: str) -> bool:
        """Whether ``item`` is accepted or rejected."""
        row = self._db.execute(
            "SELECT status FROM outcomes WHERE run = ? AND item = ?", (run, item)
        ).fetchone()
        return row is not None and row["status"] in ("accepted", "rejected")

    def free(self, run: str, item: str) -> None:
        """Give a claimed item back, undecided."""
        self._db.execute(
            "DELETE FROM outcomes WHERE run = ? AND item = ? AND owner = ?",
            (run, item, self.lease.owner),
        )

    def settle(self, run: str, outcome: Outcome) -> None:
        """Write what became of an item."""
        self._db.execute(
            "INSERT OR REPLACE INTO outcomes VALUES (?, ?, NULL, ?, ?, ?, ?, ?, ?)",
            (
                run,
                outcome.item,
                outcome.status,
                outcome.stage,
                outcome.code,
                json.dumps(outcome.result, ensure_ascii=False),
                json.dumps(outcome.keys),
                time.time(),
            ),
        )

    def outcomes(self, run: str) -> dict[str, Outcome]:
        """The settled outcomes of ``run`` by item."""
        rows = self._db.execute(
            "SELECT * FROM outcomes WHERE run = ? AND status IS NOT NULL", (run,)
        )
        return {row["item"]: _outcome(row) for row in rows}

    def columns(self, item: str) -> dict[str, Any]:
        """The source columns of ``item``.

        Raises:
            StoreError: the store does not know it.
        """
        row = self._db.execute("SELECT columns FROM items WHERE item = ?", (item,)).fetchone()
        if row is None:
            raise StoreError(f"{self.path} holds no item {item!r}")
        columns: dict[str, Any] = json.loads(row["columns"])
        return columns

    def find_items(self, prefix: str) -> list[str]:
        """The items whose id begins with ``prefix``."""
        query = "SELECT item FROM items WHERE substr(item, 1, ?) = ? ORDER BY item"
        return [row["item"] for row in self._db.execute(query, (len(prefix), prefix))]


def _reply(row: sqlite3.Row) -> Reply:
    failure: Failure | None = row["failure"]
    usage = Usage(row["input_tokens"], row["output_tokens"], row["cached_tokens"])
    return Reply(row["reply"], failure, usage, row["cost"], row["tries"], 0, row["seconds"])


def _outcome(row: sqlite3.Row) -> Outcome:
    return Outcome(
        row["item"],
        row["status"],
        row["stage"] or "",
        row["code"] or "",
        json.loads(row["result"]),
        tuple(json.loads(row["keys"])),
    )
