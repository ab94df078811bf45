"""The stages under Ray Data, on this machine."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sglang_multiverse.data_pipeline import config as configs
from sglang_multiverse.data_pipeline.corpus.export import export_dataset
from sglang_multiverse.data_pipeline.source.ingest import ingest
from sglang_multiverse.data_pipeline.store.books import Books
from sglang_multiverse.data_pipeline.store.store import Opened, Store
from sglang_multiverse.data_pipeline.teacher.budget import Amount, Budget
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette

from .replay import ReplayServer
from .test_pipeline import outcomes, run
from .test_store import WORST, call, reply

ray = pytest.importorskip("ray", reason="needs the extra `ray`")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        configure_logging=False,
    )
    yield
    ray.shutdown()


def rows_of(cassettes: list[Cassette]) -> list[dict[str, Any]]:
    """Rows of several chains to a question, of one row three times over, of none that can be read,
    and of a test question."""
    rows = [dict(cassette.record().columns) for cassette in cassettes]
    clean = next(row for row in rows if row["question"] == named(cassettes, "clean").question)
    chain = "deepseek_thinking_trajectory"
    other = {**clean, chain: f"{clean[chain]}\nOne more thought."}
    tested = {**clean, "question": f"{TESTED} And why?"}
    return [clean, *rows, other, tested, {"question": "Nobody thought?", "solution": "7"}, clean]


TESTED = "How many of the numbers from one to a hundred thousand hold no digit twice?"


def named(cassettes: list[Cassette], name: str) -> Cassette:
    return next(cassette for cassette in cassettes if cassette.name == name)


Said = list[tuple[str, str, str, str]]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_rows_come_out_as_the_pipeline_makes_them(
    light: list[Cassette], configure: Callable[..., Path], tmp_path: Path
) -> None:
    """By one worker and by two; a rerun makes no call; and the machine's store exports them."""
    from sglang_multiverse.data_pipeline.ray_adapter import curate_dataset

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = rows_of(light)
    tests = tmp_path / "tests.jsonl"
    tests.write_text(json.dumps({"question": TESTED}) + "\n")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"files": [str(file)], "decontaminate": [str(tests)]}

    def locally() -> Said:
        config = configure(server.url, source=source)
        ingested = ingest(configs.load(str(config)).source)
        run(config, tmp_path / "local.sqlite")
        found = outcomes(tmp_path / "local.sqlite")
        said = [("", "skipped", one.code, "") for one in ingested.skipped]
        for record in ingested.records:
            one = found[record.id]
            said.append((one.item, one.status, one.code, (one.result or {}).get("text", "")))
        return sorted(said)

    def by_ray(workers: int, blocks: int) -> Said:
        config = configs.load(str(configure(server.url, source=source)))
        dataset = ray.data.from_items(rows, override_num_blocks=blocks)
        stores = tmp_path / f"stores{workers}"
        found = curate_dataset(dataset, config, stores, workers=workers).take_all()
        names = ("id", "status", "code", "text")
        return sorted(tuple(row[f"curated_{name}"] for name in names) for row in found)

    with ReplayServer(light, latency=0.05) as server:
        wanted = locally()
        server.seen.clear()
        server.most_in_flight = 0
        assert by_ray(1, len(rows)) == wanted
        assert server.most_in_flight > 1, "a block of one row does not wait for another"
        paid = len(server.paid())
        assert by_ray(1, 2) == wanted
        assert len(server.paid()) == paid, "a rerun makes no call"
        server.seen.clear()
        assert by_ray(2, 4) == wanted
    codes = Counter(code for _, _, code, _ in wanted)
    assert codes["duplicate"] == 2 and codes["contaminated"] == codes["no-chain"] == 1
    (one,) = (tmp_path / "stores2").glob(f"{socket.gethostname()}.sqlite")
    with Store(one) as store:
        export_dataset(store, tmp_path / "out", plots=False)
    exported = pq.read_table(tmp_path / "out" / "data", columns=["id", "text"]).to_pylist()
    assert sorted((row["id"], row["text"]) for row in exported) == sorted(
        (id, text) for id, status, _, text in wanted if status == "accepted"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_machines_share_one_budget(tmp_path: Path) -> None:
    from sglang_multiverse.data_pipeline.ray_adapter import SharedStore

    budget = Budget(tokens=2500)
    books = ray.remote(Books).options(num_cpus=0).remote(tmp_path / "books.sqlite", budget)
    with SharedStore(tmp_path / "a", books) as one, SharedStore(tmp_path / "b", books) as other:
        assert one.open_call(call("1"), WORST) is Opened.OURS
        assert other.open_call(call("2"), WORST) is Opened.OURS
        assert one.open_call(call("3"), WORST) is Opened.DEAR
        assert other.open_call(call("3"), WORST) is Opened.DEAR
        one.close_call(call("1").key, reply())
        assert other.ledger().paid == Amount(15, 0.01)
        assert other.open_call(call("3"), WORST) is Opened.OURS
        other.abandon_call(call("3").key, unanswered=1)
        assert one.ledger().lost == WORST
        assert one.open_call(call("4"), WORST) is Opened.DEAR, "the lost request may be charged"
        other.abandon_call(call("2").key, unanswered=0)
        assert one.open_call(call("4"), WORST) is Opened.OURS
        one.abandon_call(call("4").key, unanswered=0)


def test_the_books_outlive_their_workers(tmp_path: Path) -> None:
    budget = Budget(tokens=2500)
    with Books(tmp_path / "books", budget) as books:
        assert books.join("host", "a") == []
        assert books.reserve("a", WORST)
        assert books.join("host", "b") == ["a"]
        books.bury("a")
        assert (books.ledger().held, books.ledger().lost) == (Amount(), WORST)
        assert books.reserve("b", WORST)
        assert not books.reserve("b", WORST)
        books.settle("b", WORST, Amount(100, 0.1), 0)
        assert books.reserve("b", WORST)
    with Books(tmp_path / "books", budget) as books:
        assert books.ledger().lost == Amount(2000, 1.0), "nobody knows what became of it"
        assert books.ledger().paid == Amount(100, 0.1)
        assert not books.reserve("b", WORST)
