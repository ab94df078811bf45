"""Runs: their items, who has which in hand, and what became of it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .database import PAGE, Database, StoreError

Status = Literal["accepted", "rejected", "error"]


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


class Runs(Database):
    """The runs of a store."""

    def put_run(
        self, run: str, about: dict[str, Any], items: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Register a run over ``items`` (id, source columns) and make it the current one. Items
        that an earlier pass of it had, with another limit, stay its items."""
        with self._transaction() as db:
            row = db.execute("SELECT items FROM runs WHERE run = ?", (run,)).fetchone()
            known = json.loads(row["items"]) if row is not None else []
            ours: list[str] = []

            def rows() -> Iterator[tuple[str, str]]:
                for item, columns in items:
                    ours.append(item)
                    yield item, json.dumps(dict(columns), default=str)

            db.executemany(
                "INSERT INTO items VALUES (?, ?) ON CONFLICT (item) DO UPDATE SET "
                "columns = excluded.columns WHERE columns != excluded.columns",
                rows(),
            )
            every = list(dict.fromkeys([*ours, *known]))
            db.execute(
                "INSERT INTO runs (run, about, started_at, items) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (run) DO UPDATE SET started_at = excluded.started_at, "
                "about = excluded.about, items = excluded.items",
                (run, json.dumps(about), time.time(), json.dumps(every)),
            )

    def add_seconds(self, run: str, seconds: float) -> None:
        """Add to the time a run has taken."""
        self._db.execute("UPDATE runs SET seconds = seconds + ? WHERE run = ?", (seconds, run))

    def runs(self) -> list[sqlite3.Row]:
        """All runs, the one started last first."""
        return self._db.execute("SELECT * FROM runs ORDER BY started_at DESC").fetchall()

    def run(self, run: str | None = None) -> sqlite3.Row:
        """The row of ``run``, by its name or the beginning of it, or of the one started last.

        Raises:
            StoreError: there is none, or several begin so.
        """
        query = "SELECT * FROM runs WHERE run = ? OR substr(run, 1, ?) = ? ORDER BY run = ? DESC"
        rows = self.runs()[:1]
        if run is not None:
            rows = self._db.execute(query, (run, len(run), run, run)).fetchall()
            if rows and rows[0]["run"] == run:
                rows = rows[:1]
        if not rows:
            named = f" {run!r}" if run is not None else "; start one with `multiverse curate run`"
            has = ", ".join(row["run"] for row in self.runs()[:8])
            raise StoreError(
                f"{self.path} holds no run{named}" + (f"; it has {has}" if has else "")
            )
        if len(rows) > 1:
            names = ", ".join(row["run"] for row in rows)
            raise StoreError(f"{self.path} holds {len(rows)} runs that begin with {run!r}: {names}")
        row: sqlite3.Row = rows[0]
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

    def elsewhere(self, run: str, items: Collection[str]) -> bool:
        """Whether another living process has one of ``items`` in hand."""
        rows = self._db.execute(
            "SELECT item, owner FROM outcomes WHERE run = ? AND status IS NULL AND owner != ?",
            (run, self.lease.owner),
        ).fetchall()
        return any(row["item"] in items and self.lease.alive(row["owner"]) for row in rows)

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

    def free_all(self, run: str, items: Sequence[str]) -> None:
        """Give claimed items back, undecided, at once."""
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM outcomes WHERE run = ? AND item = ? AND owner = ?",
                ((run, item, self.lease.owner) for item in items),
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

    def outcome(self, run: str, item: str) -> Outcome | None:
        """What became of ``item``; None where it is not settled and did not fail."""
        return self.outcomes_of(run, [item]).get(item)

    def outcomes_of(self, run: str, items: Sequence[str]) -> dict[str, Outcome]:
        """What became of ``items``, by item, as far as they are settled or failed."""
        rows = self._db.execute(
            "SELECT * FROM outcomes WHERE run = ? AND status IS NOT NULL "
            "AND item IN (SELECT value FROM json_each(?))",
            (run, json.dumps(list(items))),
        )
        return {row["item"]: _outcome(row) for row in rows}

    def each_outcome(self, run: str, status: Status | None = None) -> Iterator[Outcome]:
        """The outcomes of ``run``, or those of one status, by item, in pages."""
        query = "SELECT item, status, stage, code, result, keys FROM outcomes WHERE run = ?"
        which = "status IS NOT NULL" if status is None else "status = ?"
        values = (run,) if status is None else (run, status)
        for row in self._pages(f"{query} AND {which} AND item > ?", values):
            yield _outcome(row)

    def outcomes(self, run: str) -> dict[str, Outcome]:
        """All outcomes of ``run`` at once, by item."""
        return {outcome.item: outcome for outcome in self.each_outcome(run)}

    def statuses(self, run: str) -> Iterator[tuple[str, Status]]:
        """Item and status of every outcome of ``run``, in pages."""
        query = "SELECT item, status FROM outcomes WHERE run = ? AND status IS NOT NULL"
        for row in self._pages(f"{query} AND item > ?", (run,), size=10 * PAGE):
            yield row["item"], row["status"]

    def reasons(self, run: str) -> list[tuple[Status, str, str, int]]:
        """Status, stage, code and the number of outcomes of ``run`` that have them."""
        query = "SELECT status, stage, code, count(*) FROM outcomes WHERE run = ? "
        query += "AND status IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 4 DESC, 2, 3"
        return [
            (status, stage or "", code or "", count)
            for status, stage, code, count in self._db.execute(query, (run,))
        ]

    def columns_of(self, items: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The source columns of ``items``, by item, as far as the store knows them."""
        rows = self._db.execute(
            "SELECT item, columns FROM items WHERE item IN (SELECT value FROM json_each(?))",
            (json.dumps(list(items)),),
        )
        return {row["item"]: json.loads(row["columns"]) for row in rows}

    def columns(self, item: str) -> dict[str, Any]:
        """The source columns of ``item``.

        Raises:
            StoreError: the store does not know it.
        """
        found = self.columns_of([item])
        if item not in found:
            raise StoreError(f"{self.path} holds no item {item!r}")
        return found[item]

    def find_items(self, prefix: str) -> list[str]:
        """The items whose id begins with ``prefix``."""
        query = "SELECT item FROM items WHERE substr(item, 1, ?) = ? ORDER BY item"
        return [row["item"] for row in self._db.execute(query, (len(prefix), prefix))]


def _outcome(row: sqlite3.Row) -> Outcome:
    return Outcome(
        row["item"],
        row["status"],
        row["stage"] or "",
        row["code"] or "",
        json.loads(row["result"]),
        tuple(json.loads(row["keys"])),
    )
