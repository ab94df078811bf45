"""The batch API: the same outcomes as by requests, whatever comes back, whoever is killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.cli.curation import _batches_go_on
from sglang_multiverse.data_pipeline import config as configs
from sglang_multiverse.data_pipeline.corpus.export import export_dataset
from sglang_multiverse.data_pipeline.corpus.summary import Summary, summarise
from sglang_multiverse.data_pipeline.pipeline import Finished, Run
from sglang_multiverse.data_pipeline.source.ingest import ingest
from sglang_multiverse.data_pipeline.store.store import Filing, Store
from sglang_multiverse.data_pipeline.teacher import batch_caller
from sglang_multiverse.data_pipeline.teacher.batch_caller import BatchCaller
from sglang_multiverse.data_pipeline.teacher.batch_file import request_line
from sglang_multiverse.data_pipeline.teacher.budget import (
    UNLIMITED,
    Budget,
    BudgetExhausted,
    worst_case,
)
from sglang_multiverse.data_pipeline.teacher.call import Reply
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied
from sglang_multiverse.data_pipeline.teacher.collector import Batching, Collector
from sglang_multiverse.data_pipeline.teacher.transport import Endpoint, TransportError

from .odd import fuzz
from .replay import ReplayServer
from .replay_batches import Desk
from .test_pipeline import command, outcomes, run
from .test_transport import PRICES, call, cassette, send

Configure = Callable[..., Path]
BATCH = {"poll": 0.02}
#: Whose outcomes are compared by spelling, and which meet a fault each; a few are enough.
NAMES = ("clean", "two-blocks", "repaired", "refused", "no-parallelism", "cut-reply")


@pytest.fixture
def few(cassettes: list[Cassette]) -> list[Cassette]:
    return [one for one in cassettes if one.name in NAMES]


@pytest.fixture
def server(few: list[Cassette]) -> Iterator[ReplayServer]:
    with ReplayServer(few) as running:
        yield running
    assert running.unmatched == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def batched(
    config: Path, store_path: Path, before: Callable[[Run], None] = lambda run: None, **more: Any
) -> tuple[Finished, Summary, list[str]]:
    """One run by batches in this process, and what was said of them."""
    loaded = configs.load(str(config))
    assert loaded.batch is not None
    options = loaded.batch.build()
    ingested = ingest(loaded.source)
    said: list[str] = []

    async def go(store: Store) -> Finished:
        async with BatchCaller(
            store,
            loaded.endpoint.build(),
            loaded.price_list(),
            loaded.limits(),
            options,
            say=said.append,
            **more,
        ) as caller:
            one = Run(
                ingested.records,
                loaded.recipe(),
                store,
                caller,
                workers=options.items,
                source=ingested.identity,
                about=loaded.about(),
            )
            before(one)
            return await one.run()

    with Store(store_path) as store:
        return asyncio.run(go(store)), summarise(store), said


def sizes(server: ReplayServer) -> list[int]:
    """Lines of every file that was uploaded."""
    desk = server.desk
    return [len(desk.files[batch.file].splitlines()) for batch in desk.batches.values()]


def test_the_same_rows_come_out_as_by_requests(
    few: list[Cassette], configure: Configure, store: Path, tmp_path: Path
) -> None:
    """Row for row, to the token; calls are sent when every item waits for one."""
    tables = {}
    for batch in (None, {**BATCH, "price": 1.0}):
        path = store.with_name(f"{batch is not None}.sqlite")
        with ReplayServer(few) as server:
            config = configure(server.url, items=few, batch=batch)
            finished = (batched if batch else run)(config, path)[0]
        assert finished.end == "complete"
        with Store(path) as opened:
            export_dataset(opened, tmp_path / path.stem, curriculum=False, plots=False)
            paid = opened.ledger().paid
        (file,) = (tmp_path / path.stem / "data").iterdir()
        rows = sorted(pq.read_table(file).to_pylist(), key=lambda row: row["id"])
        tables[batch is not None] = (rows, paid.tokens, outcomes(path), sizes(server))
    by_request, by_batch = tables[False], tables[True]
    assert by_batch[:3] == by_request[:3]
    assert by_request[3] == [] and by_batch[3][0] == len(few)
    assert by_batch[3] == sorted(by_batch[3], reverse=True), "all who wait go together"


def test_books_are_right_to_the_token_at_half_the_price(
    server: ReplayServer, few: list[Cassette], configure: Configure, store: Path
) -> None:
    config = configure(server.url, items=few, batch=BATCH)
    _, summary, _ = batched(config, store)
    charged = [sum(request.usage[at] for request in server.paid()) for at in (0, 1)]
    assert summary.paid_tokens == sum(charged)
    assert summary.paid_cost == pytest.approx((charged[0] * 2 + charged[1] * 10) / 1e6 / 2)
    assert summary.batches == []
    sent = len(server.requests)
    finished, _, said = batched(config, store)
    assert (finished.end, said, len(server.requests)) == ("complete", [], sent), "a rerun is free"


# --- one call


def asked(
    server: ReplayServer,
    path: Path,
    *questions: str,
    budget: Budget = UNLIMITED,
    options: Batching | None = None,
    key: str = "none",
    **more: Any,
) -> list[Any]:
    """What calls come to, by the batches of one process; each is all that its item does."""
    endpoint = Endpoint(server.url, "teacher", key, attempts=3, timeout=3.0, wait_initial=0.01)

    async def go(store: Store) -> list[Any]:
        async def one(question: str) -> Reply:
            with caller.item():
                return await caller(call(question))

        options_ = options or Batching(poll=0.01)
        async with BatchCaller(store, endpoint, PRICES, budget, options_, **more) as caller:
            return list(await asyncio.gather(*map(one, questions), return_exceptions=True))

    with Store(path) as store:
        return asyncio.run(go(store))


def answering(*questions: str) -> list[Cassette]:
    return [Cassette(q, q, "c", replies={"fill": (Replied("S1: 1"),)}) for q in questions]


@pytest.mark.parametrize(
    ("fault", "unanswered"),
    [
        ({"status": 429}, 0),
        ({"status": 500}, 0),
        ({"expired": True}, 0),
        ({"code": "server_error"}, 0),
        ({"garbage": "<html>bad gateway</html>"}, 1),
        ({"garbage": {"error": "overloaded"}}, 1),
        ({"garbage": [1, 2]}, 1),
        ({"cut": True}, 1),
        ({"hang": 0}, 1),
    ],
)
def test_lines_that_fail_are_asked_again_in_a_next_batch(
    fault: dict[str, Any], unanswered: int, store: Path
) -> None:
    """Counted as by a request of its own: what was perhaps charged is."""
    with ReplayServer([cassette(fault)]) as server:
        (reply,) = asked(server, store, "Q")
        assert sizes(server) == [1, 1]
    assert (reply.text, reply.tries) == ("S1: 1", 2)
    with Store(store) as opened:
        (row,) = opened.calls()
        assert (row["state"], row["tries"], row["lost"]) == ("done", 2, unanswered)
        assert opened.ledger().lost.tokens == unanswered * worst_case(call(), PRICES).tokens
        assert opened.ledger().held.tokens == 0


def test_a_line_is_asked_as_often_as_a_request(store: Path) -> None:
    with ReplayServer([cassette(*[{"expired": True}] * 9)]) as server:
        (error,) = asked(server, store, "Q")
        assert sizes(server) == [1, 1, 1]
    assert isinstance(error, TransportError) and not error.fatal
    assert "batch_expired" in str(error) and "3 requests" in str(error)


@pytest.mark.parametrize(
    ("status", "fatal"), [(400, False), (401, True), (402, True), (403, False), (404, False)]
)
def test_a_line_that_is_refused_is_said_as_for_a_request(
    status: int, fatal: bool, store: Path
) -> None:
    fault = {"status": status}
    with ReplayServer([cassette(fault), *answering("fine")]) as server:
        error, fine = asked(server, store, "Q", "fine")
        assert len(server.desk.batches) == 1
    with ReplayServer([cassette(fault)]) as other, pytest.raises(TransportError) as caught:
        send(other, call())
    assert str(error) == str(caught.value).replace(other.url, server.url)
    assert error.fatal is fatal, "others are answered"
    assert fine.text == "S1: 1", "the others are settled first"


def test_odd_lines_are_nobodys(store: Path) -> None:
    """Lines of unknown calls, of none, and the second of two for one call."""
    with ReplayServer(answering("Q")) as server:
        one = {"custom_id": call().key, "response": {"status_code": 200, "body": "first"}}
        odd = [b"", b"[1, 2]", b"\xff{", b"[" * 100_000, b'{"custom_id": 7}']
        odd += [b'{"custom_id": "\\ud83d"}', b'{"custom_id": "stranger", "response": null}']
        server.desk.extra = odd
        (reply,) = asked(server, store, "Q")
        assert (reply.text, reply.tries, sizes(server)) == ("S1: 1", 1, [1])
    with ReplayServer(answering("Q")) as server:
        server.desk.extra = [json.dumps(one).encode()]
        (reply,) = asked(server, store.with_name("other"), "Q", options=Batching(poll=0.01))
        assert isinstance(reply, TransportError) and "no JSON object" in str(reply)
        assert sizes(server) == [1, 1, 1], "the first line counts"


def test_whatever_the_lines_say_every_item_is_settled_and_the_books_are_right(
    light: list[Cassette], tmp_path: Path
) -> None:
    found = fuzz(light, items=20, seed=3, folder=tmp_path, batch=True)
    assert found.problems == []
    assert sum(found.odd.values()) > 20 and found.codes["accepted"] > 5


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_a_batch_that_ends_early_holds_what_was_answered(end: str, store: Path) -> None:
    with ReplayServer([*answering("A"), cassette({"expired": True})]) as server:
        server.desk.end = end
        replies = asked(server, store, "A", "Q")
        assert sizes(server) == [2, 1]
    assert [reply.tries for reply in replies] == [1, 2]


def test_files_are_cut_at_their_limits(store: Path) -> None:
    questions = [f"Q{number}" for number in range(7)]
    size = len(request_line(call("Q0"), Endpoint("http://h/v1", "teacher")))
    with ReplayServer(answering(*questions)) as server:
        asked(server, store, *questions, options=Batching(requests=3, poll=0.01))
        assert sorted(sizes(server)) == [1, 3, 3]
    with ReplayServer(answering(*questions)) as server:
        by_size = Batching(size=2 * size + 5, poll=0.01)
        asked(server, store.with_name("by-size"), *questions, options=by_size)
        assert sorted(sizes(server)) == [1, 2, 2, 2]
        (error,) = asked(server, store, "Q" * 999, options=by_size)
        assert isinstance(error, TransportError) and "batch.megabytes" in str(error)


def test_the_budget_is_hard(store: Path) -> None:
    """A file holds no more than fits, at the worst; what comes to less makes room."""
    questions = [f"Q{number:02}" for number in range(24)]
    worst = worst_case(call("Q00"), PRICES)
    budget = Budget(tokens=worst.tokens * 3)
    with ReplayServer(answering(*questions)) as server:
        done = asked(server, store, *questions, budget=budget)
        assert sizes(server)[0] == 3
        paid = sum(sum(request.usage) for request in server.paid())
        answered = len(server.requests)
    refused = [one for one in done if isinstance(one, BudgetExhausted)]
    assert 0 < len(refused) == 24 - answered
    assert "Raise `budget`" in str(refused[0])
    with Store(store) as opened:
        ledger = opened.ledger()
    assert ledger.paid.tokens == paid <= worst.tokens * 3
    assert ledger.held.tokens == ledger.lost.tokens == 0


def test_one_call_of_two_processes_is_paid_once(store: Path) -> None:
    async def go(server: ReplayServer, one: Store, other: Store) -> list[Reply]:
        endpoint = Endpoint(server.url, "teacher")
        options = Batching(poll=0.05)
        async with (
            BatchCaller(one, endpoint, PRICES, options=options) as first,
            BatchCaller(other, endpoint, PRICES, options=options) as second,
        ):
            return list(await asyncio.gather(first(call()), second(call()), second(call())))

    with ReplayServer(answering("Q")) as server, Store(store) as one, Store(store) as other:
        server.desk.looks = 4
        replies = asyncio.run(go(server, one, other))
        assert len(server.paid()) == 1
    assert {reply.text for reply in replies} == {"S1: 1"}


# --- when a file is due


def test_a_file_is_due_when_nothing_moves_or_it_is_full_or_somebody_waited_long() -> None:
    async def go() -> None:
        now = 0.0
        one = Collector(Batching(requests=3, size=100, wait=60.0), lambda: now)
        with one.item(), one.item():
            first = one.add(call("A"), 10)
            assert not one.due() and one.next_look() == 60.0
            now = 60.0
            assert one.due(), "it waited long enough"
            now = 10.0
            second = one.add(call("B"), 10)
            assert one.due(), "every item waits"
            with one.item():
                assert not one.due(), "this one moves"
                one.add(call("C"), 10)
                assert one.due() and len(one.cut()) == 3, "it is full"
            assert not one.due()
            one.block(call("A").key)
            assert not one.due() and one.next_look() == one.options.poll
            one.unblock()
            one.again(call("B").key, 1)
            assert [(w.call, w.tries) for w in one.cut()] == [(call("A"), 0), (call("B"), 1)]
            one.answer(call("A").key, Reply("a"))
            one.fail(lambda: RuntimeError("broken"))
            assert (await first).text == "a"
            with pytest.raises(RuntimeError, match="broken"):
                await second
            with one.item():
                one.add(call("D"), 101)
                assert one.due(), "by its size"

    asyncio.run(go())


# --- going on


def test_what_was_created_but_not_heard_of_is_found_again(store: Path) -> None:
    """A batch is never created twice: the provider's list tells whether it was."""
    with ReplayServer(answering("Q")) as server:
        cut = {"cut": True, "after": True}
        server.desk.faults = {"POST /batches": [cut], "POST /files": [{"status": 500}, cut]}
        (reply,) = asked(server, store, "Q")
        assert (reply.text, len(server.desk.batches), len(server.paid())) == ("S1: 1", 1, 1)
        assert server.desk.calls.count("POST /files") == 3


def test_without_a_list_it_counts_as_perhaps_charged(store: Path) -> None:
    class Listless(type(ReplayServer([]).desk)):  # type: ignore[misc]
        def _do(self, handler: Any, what: str, rest: list[str], raw: bytes) -> Any:
            if what == "GET /batches" and not rest:
                return 404, {"error": {"message": "no list"}}
            return super()._do(handler, what, rest, raw)

    with ReplayServer(answering("Q")) as server:
        server.desk = Listless()
        server.desk.faults = {"POST /batches": [{"cut": True, "after": True}]}
        (reply,) = asked(server, store, "Q")
        assert (reply.tries, len(server.desk.batches)) == (2, 2)
    with Store(store) as opened:
        assert opened.requests() == (2, 1)


class _Telling(Desk):
    """Tells what ``tell`` makes of the rows of its batches; its list is what ``listed`` says."""

    def __init__(
        self,
        tell: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        listed: Callable[[list[dict[str, Any]], str], Any] | None = None,
    ):
        super().__init__()
        self.tell, self.listed = tell, listed
        self.query = ""

    def answer(self, handler: Any, method: str, path: str, raw: bytes) -> None:
        self.query = path.partition("?")[2]
        super().answer(handler, method, path, raw)

    def _row(self, batch: Any) -> dict[str, Any]:
        return self.tell(super()._row(batch))

    def _do(self, handler: Any, what: str, rest: list[str], raw: bytes) -> Any:
        status, value = super()._do(handler, what, rest, raw)
        if what == "GET /batches" and not rest and self.listed is not None:
            return 200, self.listed(value["data"], self.query)
        return status, value


LOST = {"cut": True, "after": True}
OLD = {"id": "old", "input_file_id": "other", "created_at": 1, "status": "completed"}


@pytest.mark.parametrize(
    "body", ['{"data": null}', '{"data": [1, null]}', "[1]", "7", '{"data": [{"id": "batch_0"}]}']
)
def test_what_is_no_list_is_not_taken_for_an_empty_one(body: str, store: Path) -> None:
    """It is asked for again; where it stays so, the batch counts as perhaps charged."""
    with ReplayServer(answering("Q")) as server:
        server.desk.faults = {"POST /batches": [LOST], "GET /batches": [{"garbage": body}]}
        (reply,) = asked(server, store, "Q")
        assert (reply.tries, len(server.desk.batches), len(server.paid())) == (1, 1, 1)
    other = store.with_name("other")
    with ReplayServer(answering("Q")) as server:
        server.desk.faults = {"POST /batches": [LOST], "GET /batches": [{"garbage": body}] * 2}
        (reply,) = asked(server, other, "Q")
        assert (reply.tries, len(server.desk.batches)) == (2, 2)
    with Store(other) as opened:
        assert opened.requests() == (2, 1)


@pytest.mark.parametrize(
    "extra",
    [
        OLD,
        {**OLD, "created_at": "2026-11-28T00:00:00Z"},
        {**OLD, "created_at": None, "input_file_id": None},
    ],
)
def test_a_list_is_read_to_its_end_in_whatever_order(extra: dict[str, Any], store: Path) -> None:
    def paged(data: list[dict[str, Any]], query: str) -> dict[str, Any]:
        first = "after=" not in query
        return {"data": [extra] if first else data, "has_more": first}

    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(listed=paged)
        server.desk.faults = {"POST /batches": [LOST]}
        (reply,) = asked(server, store, "Q")
        assert (reply.tries, len(server.desk.batches), len(server.paid())) == (1, 1, 1)


def test_a_list_that_does_not_say_whether_there_is_more_is_read_on(store: Path) -> None:
    def paged(data: list[dict[str, Any]], query: str) -> dict[str, Any]:
        return {"data": [OLD] if "after=" not in query else data if "after=old" in query else []}

    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(listed=paged)
        server.desk.faults = {"POST /batches": [LOST]}
        (reply,) = asked(server, store, "Q")
        assert (reply.tries, len(server.desk.batches), len(server.paid())) == (1, 1, 1)
    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(listed=lambda data, query: {"data": [OLD]})  # heeds no `after`
        server.desk.faults = {"POST /batches": [{"cut": True}]}
        (reply,) = asked(server, store.with_name("other"), "Q")
        assert (reply.tries, len(server.desk.batches)) == (1, 1)


def test_a_list_without_end_does_not_tell_either(store: Path) -> None:
    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(listed=lambda data, query: {"data": [OLD], "has_more": True})
        server.desk.faults = {"POST /batches": [LOST]}
        (reply,) = asked(server, store, "Q")
        assert (reply.tries, len(server.desk.batches)) == (2, 2)


@pytest.mark.parametrize(
    "fault", [{"garbage": "<html>busy</html>"}, {"garbage": ""}, {"status": 404}, None]
)
def test_answers_that_the_counts_tell_of_are_looked_for_again(
    fault: dict[str, Any] | None, store: Path
) -> None:
    looks = itertools.count()

    def late(row: dict[str, Any]) -> dict[str, Any]:
        if fault is None and row["status"] == "completed" and not next(looks):
            return {**row, "output_file_id": None}
        return row

    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(late)
        server.desk.faults = {"GET /files": [] if fault is None else [fault]}
        (reply,) = asked(server, store, "Q")
        assert (reply.text, reply.tries, sizes(server)) == ("S1: 1", 1, [1])
    with Store(store) as opened:
        assert opened.requests() == (1, 0)


@pytest.mark.parametrize("counts", [None, {"total": 1, "completed": 0, "failed": 0}])
def test_a_file_that_no_count_tells_of_is_looked_for_again(counts: Any, store: Path) -> None:
    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(lambda row: {**row, "request_counts": counts})
        server.desk.faults = {"GET /files": [{"status": 404}]}
        (reply,) = asked(server, store, "Q")
        assert (reply.tries, len(server.desk.batches)) == (1, 1)
        server.desk.faults = {"GET /files": [{"status": 404}] * 9}
        (error,) = asked(server, store.with_name("other"), "Q")
        assert error.fatal and "cannot be read" in str(error)


def test_a_file_that_is_gone_is_told_by_the_name_of_its_batch(store: Path) -> None:
    with ReplayServer(answering("Q")) as server:
        server.desk.faults = {"GET /files": [{"status": 404}] * 9}
        (error,) = asked(server, store, "Q")
    assert error.fatal and "batch batch_0 (1 call, completed) cannot be read" in str(error)


def test_statuses_of_other_spelling_are_known(store: Path) -> None:
    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(lambda row: {**row, "status": row["status"].upper()})
        (reply,) = asked(server, store, "Q")
        assert (reply.text, reply.tries) == ("S1: 1", 1)
        server.desk = _Telling(lambda row: {**row, "status": "canceled"})
        server.desk.looks = 9
        (error,) = asked(server, store, "Q" * 2)
        assert isinstance(error, TransportError) and "(cancelled) holds no answer" in str(error)


def test_a_status_that_is_none_is_told_and_has_an_end(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_caller, "PATIENCE", 0.1)
    said: list[str] = []
    with ReplayServer(answering("Q")) as server:
        server.desk = _Telling(lambda row: {**row, "status": "paused"})
        server.desk.held.set()
        (error,) = asked(server, store, "Q", say=said.append)
    assert error.fatal and "batch batch_0 stays 'paused'" in str(error)
    assert "batch batch_0: paused, a status that this protocol does not have, 0 of 1" in said
    with Store(store) as opened:
        assert [batch.id for batch in opened.open_batches()] == ["batch_0"]


def test_a_key_that_is_echoed_is_not_told(store: Path) -> None:
    key = "sk-echoed-0123456789"
    refusal = {"status": 400, "code": key}
    with ReplayServer(
        [
            cassette(refusal),
            *[replace(c, replies={"fill": (Replied(key),)}) for c in answering("A")],
        ]
    ) as server:
        error, reply = asked(server, store, "Q", "A", key=key)
        assert reply.text == "SECRET" and "SECRET" in str(error) and key not in str(error)
        server.desk.refuse = [{"code": "bad", "message": key, "line": 1}]
        (error,) = asked(server, store, "Q" * 2, key=key)
        assert "bad: SECRET" in str(error)


@pytest.mark.parametrize("uploaded", [False, True])
def test_what_was_written_down_but_never_created_is_sent(uploaded: bool, store: Path) -> None:
    """As a process leaves it that died before it had created the batch."""
    with ReplayServer(answering("Q")) as server:
        with Store(store) as opened:
            filing = Filing(call(), worst_case(call(), PRICES))
            opened.fill_batch("ours", server.url, [filing])
            if uploaded:
                line = request_line(call(), Endpoint(server.url, "teacher"))
                opened.note_batch("ours", file=server.desk.put(line))
        (reply,) = asked(server, store, "Q")
        assert (reply.text, reply.tries, sizes(server)) == ("S1: 1", 1, [1])
        assert server.desk.calls.count("POST /files") == (not uploaded)
    with Store(store) as opened:
        assert opened.requests() == (1, 0)


def test_replies_that_nobody_waits_for_any_more_are_fetched(store: Path) -> None:
    with ReplayServer(answering("Q")) as server:
        with Store(store) as opened:
            opened.fill_batch("ours", server.url, [Filing(call(), worst_case(call(), PRICES))])
        asked(server, store)
        asked(server, store)
    with Store(store) as opened:
        assert opened.open_batches() == []
        assert opened.reply(call().key) is not None


def test_a_provider_that_is_away_for_a_while_is_waited_for(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ReplayServer(answering("Q")) as server:
        server.desk.faults = {"GET /batches": [{"status": 503}] * 5}
        (reply,) = asked(server, store, "Q")
        assert (reply.text, sizes(server)) == ("S1: 1", [1])
        monkeypatch.setattr(batch_caller, "PATIENCE", 0.0)
        server.desk.faults = {"GET /batches": [{"status": 503}] * 3}
        (error,) = asked(server, store, "Q" * 2)
        assert error.fatal and "HTTP 503 after 3 requests" in str(error)
        with Store(store) as opened:
            assert [batch.id for batch in opened.open_batches()] == ["batch_1"]


def test_a_batch_that_is_gone_is_given_up_only_when_told(store: Path) -> None:
    with ReplayServer(answering("Q")) as server:
        with Store(store) as opened:
            opened.fill_batch("ours", server.url, [Filing(call(), worst_case(call(), PRICES))])
            opened.note_batch("ours", file="file-9", id="batch_9")
        (error,) = asked(server, store, "Q")
        assert error.fatal and "batch_9 (1 call, created)" in str(error)
        assert "--drop-batches" in str(error)
        assert server.requests == []
        (reply,) = asked(server, store, "Q", drop=True)
        assert reply.tries == 2
    with Store(store) as opened:
        assert opened.requests() == (2, 1), "it was perhaps charged"


def test_an_interrupt_promises_no_batch_that_is_not_there(store: Path) -> None:
    with Store(store) as opened:
        assert _batches_go_on(opened) == "no batch was sent"
        opened.fill_batch("ours", "http://x/v1", [Filing(call(), worst_case(call(), PRICES))])
        assert _batches_go_on(opened) == "batches go on at the provider"


def test_killed_and_interrupted_it_goes_on_with_the_same_batch(
    few: list[Cassette], server: ReplayServer, configure: Configure, store: Path
) -> None:
    """By kill -9, then by one Ctrl-C, after which it says within two seconds how to go on."""
    few = [one for one in few if one.name in ("clean", "two-blocks")]
    config = configure(server.url, items=few, batch=BATCH)
    server.desk.held.set()
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            command(config, store, "--processes", "0"), stderr=subprocess.PIPE, text=True
        )
        looks = server.desk.calls.count("GET /batches")
        while server.desk.calls.count("GET /batches") < looks + 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.kill(process.pid, how)
        begun = time.monotonic()
        assert process.stderr is not None
        err = ""
        for line in process.stderr:
            err += line
            if "goes on from here" in line:
                assert time.monotonic() - begun < 2.0
        process.wait()
    assert "batch batch_0 (2 calls, in_progress) is open" in err
    assert "--batch` fetches its replies" in err and "goes on from here" in err
    assert "ending; batches go on at the provider" in err
    said = CliRunner().invoke(app, ["curate", "status", "--store", str(store)]).output
    assert "batch batch_0 (2 calls, in_progress) is open" in said
    online = configure(server.url, items=few)
    result = CliRunner().invoke(app, ["curate", "run", str(online), "--store", str(store)])
    assert (result.exit_code, result.output.count("\n")) == (2, 2), result.output
    assert "fetch them with --batch" in result.output
    assert server.requests == []
    server.desk.held.clear()
    config = configure(server.url, items=few, batch={**BATCH, "price": 1.0})
    finished, summary, _ = batched(config, store)
    assert (finished.end, summary.batches) == ("complete", [])
    assert summary.unanswered <= 3, "the faults of one cassette, nothing of the dead"
    counts = [(r.item, r.task, r.attempt) for r in server.paid()]
    assert len(counts) == len(set(counts)), "nothing was paid for twice"
    assert server.desk.calls.count("POST /files") == len(server.desk.batches)
    assert summary.paid_tokens == sum(sum(request.usage) for request in server.paid())


def test_what_was_settled_before_the_store_failed_is_not_settled_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [f"Q{number}" for number in range(4)]
    monkeypatch.setattr(batch_caller, "PAGE", 1)
    settle = Store.settle_batch
    calls = itertools.count()

    def full(*arguments: Any) -> None:
        if next(calls) == 2:
            raise sqlite3.OperationalError("database or disk is full")
        settle(*arguments)

    monkeypatch.setattr(Store, "settle_batch", full)
    with ReplayServer(answering(*questions)) as server:
        failed = [one for one in asked(server, store, *questions) if isinstance(one, Exception)]
        assert [type(one) for one in failed] == [sqlite3.OperationalError] * 2
        replies = asked(server, store, *questions)
        assert [reply.text for reply in replies] == ["S1: 1"] * 4
        assert sizes(server) == [4]
        paid = sum(sum(request.usage) for request in server.paid())
    with Store(store) as opened:
        ledger = opened.ledger()
    assert (ledger.paid.tokens, ledger.held.tokens, ledger.lost.tokens) == (paid, 0, 0)


def test_stopping_before_anything_is_created_leaves_nothing(
    few: list[Cassette], server: ReplayServer, configure: Configure, store: Path
) -> None:
    server.desk.faults = {"POST /files": [{"hang": 1.0}]}

    def stop(one: Run) -> None:
        async def soon() -> None:
            while "POST /files" not in server.desk.calls:
                await asyncio.sleep(0.01)
            one.stop()

        asyncio.get_running_loop().call_soon(lambda: tasks.append(asyncio.ensure_future(soon())))

    tasks: list[Any] = []
    config = configure(server.url, items=few, batch=BATCH)
    finished, summary, _ = batched(config, store, stop)
    assert (finished.end, summary.batches) == ("stopped", [])
    with Store(store) as opened:
        assert list(opened.calls()) == [] and opened.ledger().held.tokens == 0
    assert batched(config, store)[0].end == "complete"


# --- errors and configuration


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"absent": {"files"}}, "has no batch API (HTTP 404 at POST /files); leave `batch` out"),
        ({"absent": {"batches"}}, "has no batch API (HTTP 404 at POST /batches)"),
        ({"faults": {"POST /files": [{"status": 413}]}}, "refuses the file (HTTP 413"),
        ({"faults": {"POST /batches": [{"status": 400}]}}, "refuses the file (HTTP 400"),
        ({"faults": {"POST /files": [{"status": 500}] * 6}}, "HTTP 500 after 6 requests"),
        (
            {"refuse": [{"code": "token_limit_exceeded", "message": "too many", "line": None}]},
            "token_limit_exceeded: too many; lower `batch.items`",
        ),
        (
            {"refuse": [{"code": "bad_model", "message": "no", "line": n} for n in range(5)]},
            "bad_model: no (line 0); bad_model: no (line 1); bad_model: no (line 2); and 2 more",
        ),
    ],
)
def test_what_the_provider_does_not_take_is_one_line(
    few: list[Cassette], configure: Configure, store: Path, trouble: dict[str, Any], said: str
) -> None:
    with ReplayServer(few) as server:
        vars(server.desk).update(trouble)
        config = configure(server.url, items=few, batch=BATCH)
        finished, summary, _ = batched(config, store)
        assert finished.end == "endpoint"
        assert said in finished.reason and "\n" not in finished.reason
        assert summary.by_status == {"pending": len(few)} and summary.batches == []
        assert summary.lost_tokens == 0 and server.requests == []


def test_calls_that_fail_beside_others_do_not_end_the_run(
    few: list[Cassette], configure: Configure, store: Path
) -> None:
    """A batch tells all its errors at once; the endpoint answers all the same."""
    clean = next(one for one in few if one.name == "clean")
    items = [replace(clean, name=str(n), question=f"{clean.question} ({n})") for n in range(13)]
    (steps,) = clean.replies["outline-steps"]
    broken = {**clean.replies, "outline-steps": (replace(steps, faults=({"status": 400},)),)}
    items[:12] = [replace(one, replies=broken) for one in items[:12]]
    with ReplayServer(items) as server:
        config = configure(server.url, items=items, batch=BATCH)
        finished, summary, _ = batched(config, store)
        assert (finished.end, summary.by_status["error"]) == ("complete", 12)
        assert summary.by_status["accepted"] == 1
        finished, _, _ = batched(config, store)
        assert finished.end == "complete" and finished.progress.accepted == 13


def test_a_wrong_key_says_where_it_comes_from(store: Path) -> None:
    with ReplayServer(answering("Q"), key="right") as server:
        (error,) = asked(server, store, "Q")
    assert error.fatal and "api_key_env" in str(error)


def test_it_is_switched_on_in_the_configuration(
    few: list[Cassette], configure: Configure, tmp_path: Path
) -> None:
    def loaded(batch: Any, option: dict[str, Any] | None = None) -> configs.Config:
        path = str(configure("http://127.0.0.1:9/v1", items=few, batch=batch))
        return configs.load(path, {"batch": option})

    assert loaded(None).batch is None and loaded(False).batch is None
    assert loaded(True).batch == loaded(False, {}).batch == configs.BatchPart()
    assert loaded({"items": 7}, {}).batch == configs.BatchPart(items=7)
    assert loaded(True).price_list().output == 5.0 and loaded(False).price_list().output == 10.0
    for wrong in ({"requests": 50_001}, {"megabytes": 201}, {"price": 0}, {"polls": 1}, 3):
        with pytest.raises(configs.ConfigError, match="batch"):
            loaded(wrong)
    path = configure("http://127.0.0.1:9/v1", items=few)
    store = tmp_path / "none.sqlite"
    dry = ["curate", "run", str(path), "--batch", "--dry-run", "--store", str(store)]
    said = CliRunner().invoke(app, dry).output
    assert "at 0.5 of `prices`" in said and "5,000 items at once" in said


def test_ray_takes_none(configure: Configure, tmp_path: Path) -> None:
    from sglang_multiverse.data_pipeline.ray_adapter import curate_dataset

    config = configs.load(str(configure("http://127.0.0.1:9/v1", batch=True)))
    dataset: Any = None
    with pytest.raises(configs.ConfigError, match="not under Ray"):
        curate_dataset(dataset, config, tmp_path)
