"""The same stages over a Ray dataset, for sources that outgrow one machine.

::

    rows = ray.data.read_parquet("s3://…")
    curated = curate_dataset(rows, config.load("big.yaml"), Path("/local/stores"), workers=8)
    curated.write_parquet("s3://…")

Every machine keeps a store of its own in the folder, shared by its workers: SQLite does not span
machines. A rerun on the same machines makes no call for a row that comes back to the machine that
had it; one that goes elsewhere is paid for there. A budget holds per machine.
"""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config
from .pipeline import Finished, Run
from .record import Record
from .source.ingest import Skipped, read_record
from .store.store import Store
from .teacher.caller import StoredCaller
from .teacher.transport import Transport

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset


def curate_dataset(
    dataset: Dataset,
    config: Config,
    stores: Path,
    *,
    workers: int = 1,
    batch_size: int = 64,
    num_cpus: float = 0.5,
) -> Dataset:
    """``dataset`` (columns as ``config.source.columns`` names them) with what became of each row.

    Args:
        stores: folder for the machines' stores, on a disk of the machine.
        workers: actors; each has ``config.endpoint.concurrency`` requests in flight at most.
        batch_size: rows an actor takes at a time; they are worked on at once.
        num_cpus: share of a core an actor is given, for the gates; the rest is waiting.

    Returns:
        The rows with ``curated_id``, ``curated_status`` (accepted, rejected, error, pending,
        skipped), ``curated_code``, ``curated_message``, ``curated_text`` and ``curated_notes``.
    """
    return dataset.map_batches(
        Curator,
        fn_constructor_args=(config, stores),
        batch_size=batch_size,
        batch_format="pyarrow",
        concurrency=workers,
        num_cpus=num_cpus,
    )


class Curator:
    """One actor: curates batches of rows into the machine's store."""

    def __init__(self, config: Config, stores: Path):
        self.config = config
        self.recipe = config.recipe()
        self.endpoint = config.endpoint.build()
        self.store = Store(stores / f"{socket.gethostname()}.sqlite")

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = batch.to_pylist()
        read = [read_record(row, n, self.config.source) for n, row in enumerate(rows)]
        records = {one.id: one for one in read if isinstance(one, Record)}
        finished = asyncio.run(self._curate(list(records.values())))
        outcomes = self.store.outcomes(finished.run)
        made = []
        for row, one in zip(rows, read, strict=True):
            if isinstance(one, Skipped):
                result: dict[str, Any] = {}
                status, code, message = "skipped", one.code, one.message
            else:
                outcome = outcomes.get(one.id)
                result = (outcome.result or {}) if outcome is not None else {}
                status = outcome.status if outcome is not None else "pending"
                code = outcome.code if outcome is not None else finished.end
                message = result.get("message", "" if outcome is not None else finished.reason)
            made.append(
                {
                    **row,
                    "curated_id": one.id if isinstance(one, Record) else "",
                    "curated_status": status,
                    "curated_code": code,
                    "curated_message": message,
                    "curated_text": result.get("text", ""),
                    "curated_notes": json.dumps(result.get("notes", [])),
                }
            )
        return pa.Table.from_pylist(made)

    async def _curate(self, records: list[Record]) -> Finished:
        async with Transport(self.endpoint, self.config.price_list()) as transport:
            run = Run(
                records,
                self.recipe,
                self.store,
                StoredCaller(self.store, transport, self.config.limits()),
                workers=self.endpoint.concurrency + 8,
                source="ray",
                about=self.config.about(),
            )
            return await run.run()
