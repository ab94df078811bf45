"""The same stages over a Ray dataset, for sources that outgrow one machine.

::

    rows = ray.data.read_parquet("s3://…")
    curated = curate_dataset(rows, config.load("big.yaml"), Path("/local/stores"), workers=8)
    curated.write_parquet("s3://…")

Every machine keeps a store of its own in the folder, shared by its workers: SQLite does not span
machines. A rerun on the same machines makes no call for a row that comes back to the machine that
had it; one that goes elsewhere is paid for there, once more. One budget holds over all of them: its
books lie in the folder on the machine that calls :func:`curate_dataset`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .config import Config, ConfigError
from .pipeline import Run
from .record import Record
from .source.ingest import Screen, Skipped
from .store.books import Books
from .store.store import Ledger, Outcome, Store
from .teacher.budget import Amount, Budget
from .teacher.call import Reply
from .teacher.caller import StoredCaller
from .teacher.transport import Transport

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

Value = TypeVar("Value")

#: What is said of every row, in columns ``curated_…``.
SAID = ("id", "status", "code", "message", "text", "notes")
#: Blocks of rows a worker has in hand: while one waits for its last rows, it works on the others.
BLOCKS = 4


def curate_dataset(
    dataset: Dataset,
    config: Config,
    stores: Path,
    *,
    workers: int = 1,
    num_cpus: float = 0.5,
) -> Dataset:
    """``dataset`` (columns as ``config.source.columns`` names them) with what became of each row.

    Rows are taken as :func:`.ingest.ingest` takes them, but for ``source.limit``.

    Args:
        stores: folder for the machines' stores, on a disk of the machine.
        workers: actors; each has ``config.endpoint.concurrency`` requests in flight at most.
        num_cpus: share of a core an actor is given, for the gates.

    Returns:
        The rows with ``curated_id``, ``curated_status`` (accepted, rejected, error, pending,
        skipped), ``curated_code``, ``curated_message``, ``curated_text`` and ``curated_notes``.

    Raises:
        ConfigError: ``config`` asks for batches.
    """
    if config.batch is not None:
        raise ConfigError("batch: not under Ray, whose workers hold few items each; leave it out")
    import ray
    from ray.data import ActorPoolStrategy
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    books = (
        ray.remote(Books)
        .options(num_cpus=0, scheduling_strategy=here)
        .remote(stores / "books.sqlite", config.limits())
    )
    screened = dataset.map_batches(
        Screener,
        fn_constructor_args=(config,),
        batch_size=None,
        batch_format="pyarrow",
        # One sees all rows, so that it knows which came before, in the thread of its task, whose
        # name it needs: another one has none.
        compute=ActorPoolStrategy(
            size=1, max_concurrent_calls_per_actor=1, enable_true_multi_threading=True
        ),
        num_cpus=0,
    )
    return screened.map_batches(
        Curator,
        fn_constructor_args=(config, stores, books),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers,
            max_tasks_in_flight_per_actor=2 * BLOCKS,
            max_concurrent_calls_per_actor=BLOCKS,
            enable_true_multi_threading=True,
        ),
        num_cpus=num_cpus,
    )


class Screener:
    """The one actor that reads all rows, in their order, and says which are taken."""

    def __init__(self, config: Config):
        self.screen = Screen(config.source)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import ray

        task = ray.get_runtime_context().get_task_id()
        said = []
        for number, row in enumerate(batch.to_pylist(), start=1):
            made = self.screen(row, number, (task, number))  # a block may be asked for again
            if isinstance(made, Skipped):
                said.append(("", "skipped", made.code, made.message, "", "[]"))
            else:
                said.append((made.id, "", "", "", "", "[]"))
        return _with(batch, said)


class Curator:
    """One actor: curates blocks of rows into the machine's store. Its rows share one loop, so that
    no block waits for another, and come out in their order as they are done."""

    def __init__(self, config: Config, stores: Path, books: Any):
        self.config = config
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        store = SharedStore(stores / f"{socket.gethostname()}.sqlite", books)
        self._run, self._slots = self._submit(self._open(store)).result()

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        if not batch.num_rows:
            yield batch
        bare = batch.drop_columns([f"curated_{name}" for name in SAID])
        ids, statuses = (batch[f"curated_{name}"].to_pylist() for name in ("id", "status"))
        rows = [
            self._record(row, id) if not status else None
            for row, id, status in zip(bare.to_pylist(), ids, statuses, strict=True)
        ]
        self._submit(self._register([row for row in rows if row is not None])).result()
        waiting = [None if row is None else self._submit(self._curate(row)) for row in rows]
        for at, future in enumerate(waiting):
            one = batch.slice(at, 1)
            yield (
                one
                if future is None
                else _with(bare.slice(at, 1), [self._said(ids[at], future.result())])
            )

    def _record(self, row: dict[str, Any], id: str) -> Record:
        from .source.ingest import read_record

        record = read_record(row, 0, self.config.source)
        assert isinstance(record, Record) and record.id == id
        return record

    def _said(self, id: str, outcome: Outcome | None) -> tuple[str, ...]:
        if outcome is None:
            end, reason = self._run.ended
            return id, "pending", end, reason, "", "[]"
        result = outcome.result or {}
        return (
            id,
            outcome.status,
            outcome.code,
            result.get("message", ""),
            result.get("text", ""),
            json.dumps(result.get("notes", [])),
        )

    def _submit(self, work: Coroutine[Any, Any, Value]) -> Future[Value]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self, store: SharedStore) -> tuple[Run, asyncio.Semaphore]:
        endpoint = self.config.endpoint.build()
        transport = Transport(endpoint, self.config.price_list())
        run = Run(
            [],
            self.config.recipe(),
            store,
            StoredCaller(store, transport, self.config.limits()),
            source="ray",
            about=self.config.about(),
        )
        return run, asyncio.Semaphore(endpoint.concurrency + 8)

    async def _register(self, records: Sequence[Record]) -> None:
        self._run.register(records)

    async def _curate(self, record: Record) -> Outcome | None:
        async with self._slots:
            if self._run.caller.stopping.is_set():
                return None
            return await self._run.curate(record)


def _with(rows: pa.Table, said: Sequence[tuple[str, ...]]) -> pa.Table:
    """``rows`` with what is said of them; their own columns keep their types."""
    import pyarrow as pa

    for name, values in zip(SAID, zip(*said, strict=True) if said else [()] * 6, strict=True):
        rows = rows.append_column(f"curated_{name}", pa.array(values, pa.string()))
    return rows


class SharedStore(Store):
    """A machine's store whose calls must fit the books of all machines."""

    def __init__(self, path: Path, books: Any):
        super().__init__(path)
        self.books = books
        self._worst: dict[str, Amount] = {}
        for other in self._asked("join", socket.gethostname(), self.lease.owner):
            if not self.lease.alive(other):
                self.books.bury.remote(other)

    def _asked(self, name: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self.books, name).remote(*arguments))

    def ledger(self) -> Ledger:
        """What the calls of all machines have cost so far."""
        ledger: Ledger = self._asked("ledger")
        return ledger

    def affords(self, key: str, worst: Amount, budget: Budget) -> bool:
        """Whether the books hold ``worst`` for a call now."""
        held: bool = self._asked("reserve", self.lease.owner, worst)
        if held:
            self._worst[key] = worst
        return held

    def close_call(self, key: str, reply: Reply) -> None:
        """Write the reply of a call this process has open, and what it cost."""
        super().close_call(key, reply)
        paid = Amount(reply.usage.input + reply.usage.output, reply.cost)
        self._settled(key, paid, reply.unanswered)

    def abandon_call(self, key: str, unanswered: int) -> None:
        """Give up a call this process has open, ``unanswered`` requests of which were sent."""
        super().abandon_call(key, unanswered)
        self._settled(key, Amount(), unanswered)

    def _settled(self, key: str, paid: Amount, unanswered: int) -> None:
        self.books.settle.remote(self.lease.owner, self._worst.pop(key), paid, unanswered)
