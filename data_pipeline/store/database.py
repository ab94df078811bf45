"""The file: one SQLite database, opened by any number of processes of one machine at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .lease import Lease

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
#: What accounts need of all calls, without the pages that hold their texts.
_USED = """
CREATE INDEX IF NOT EXISTS calls_used ON calls (
    key, stage, state, attempt, failure, lost, tries, opened_at,
    input_tokens, cached_tokens, output_tokens, cost, seconds
)
"""
#: Files of calls at a provider, see :mod:`.batches`.
_BATCHES = """
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY, base_url TEXT NOT NULL, owner TEXT NOT NULL, opened_at REAL NOT NULL,
    file TEXT, id TEXT, status TEXT, answered INTEGER NOT NULL DEFAULT 0, closed_at REAL
) WITHOUT ROWID
"""
#: What every store has.
_TABLES = frozenset(["calls", "ledger", "items", "runs", "outcomes"])
_BATCHED = "CREATE INDEX IF NOT EXISTS calls_by_owner ON calls (owner, key) WHERE state = 'open'"
#: Rows read at a time.
PAGE = 200


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


class Database:
    """An open file and the lease of this process on what it has under way there.

    Args:
        new: make a store of a file that is not there or holds nothing.
    """

    def __init__(self, path: Path, *, new: bool = True):
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
            self._prepare(new)
            self.lease = Lease(path.with_name(path.name + ".leases"))
            self.recover()
        except (OSError, sqlite3.Error) as error:
            self._db.close()
            raise store_error(path, error) from error
        except StoreError:
            self._db.close()
            raise

    def _prepare(self, new: bool) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
        if tables and not tables >= _TABLES:
            raise StoreError(
                f"{self.path} is a database of another kind, not a curation store; it was left as "
                "it is. Name another with --store"
            )
        if not tables and not new:
            raise StoreError(f"{self.path} holds no store; name another with --store")
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
        self._db.execute(_USED)
        self._db.execute(_BATCHES)
        self._db.execute(_BATCHED)

    def recover(self) -> None:
        """Take over what processes that died have left."""

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

    def _pages(
        self, query: str, values: Sequence[Any] = (), *, after: str = "", size: int = PAGE
    ) -> Iterator[sqlite3.Row]:
        """The rows of ``query``, which ends in ``> ?`` over its first column, some at a time: no
        cursor stays open between two pages, and no more than one page is held."""
        while True:
            ordered = f"{query} ORDER BY 1 LIMIT {size}"
            rows = self._db.execute(ordered, (*values, after)).fetchall()
            yield from rows
            if len(rows) < size:
                return
            after = rows[-1][0]

    def close(self) -> None:
        self.lease.release()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
