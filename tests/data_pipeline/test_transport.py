"""The transport against a real HTTP server: retries, limits, finish reasons, costs, budget."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from sglang_multiverse.data_pipeline.store.store import Opened, Store
from sglang_multiverse.data_pipeline.teacher import rate, transport
from sglang_multiverse.data_pipeline.teacher.budget import (
    UNLIMITED,
    Budget,
    BudgetExhausted,
    Prices,
    most_input_tokens,
    worst_case,
)
from sglang_multiverse.data_pipeline.teacher.call import Call, Message, Reply, Sampling, Usage
from sglang_multiverse.data_pipeline.teacher.caller import Stopped, StoredCaller
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied
from sglang_multiverse.data_pipeline.teacher.rate import PerMinute
from sglang_multiverse.data_pipeline.teacher.refused import retry_after
from sglang_multiverse.data_pipeline.teacher.task import Task
from sglang_multiverse.data_pipeline.teacher.transport import (
    Endpoint,
    Transport,
    TransportError,
)

from .replay import ReplayServer

PRICES = Prices(input=2.0, output=10.0)


def call(question: str = "Q", attempt: int = 1, max_tokens: int = 50, **sampling: Any) -> Call:
    text = f"<question>\n{question}\n</question>\n\n{Task('fill', attempt=attempt)}"
    return Call(
        item="i",
        stage="fill",
        stage_version="1",
        prompt="fill",
        prompt_hash="h",
        model="teacher",
        sampling=Sampling(max_tokens=max_tokens, **sampling),
        messages=(Message("user", text),),
        attempt=attempt,
    )


def cassette(*faults: dict[str, Any], text: str | None = "S1: 1", **more: Any) -> Cassette:
    return Cassette("one", "Q", "chain", replies={"fill": (Replied(text, faults=faults, **more),)})


def send(server: ReplayServer, one: Call, **endpoint: Any) -> Reply:
    options = {"wait_initial": 0.01, "wait_max": 0.05, "timeout": 20.0, "model": "teacher"}

    async def go() -> Reply:
        async with Transport(Endpoint(server.url, **{**options, **endpoint}), PRICES) as transport:
            return await transport.send(one)

    return asyncio.run(go())


def test_a_reply_comes_with_usage_and_cost() -> None:
    with ReplayServer([cassette()]) as server:
        reply = send(server, call())
    ((usage_in, usage_out),) = [request.usage for request in server.paid()]
    assert (reply.text, reply.failure, reply.tries, reply.unanswered) == ("S1: 1", None, 1, 0)
    assert reply.usage == Usage(usage_in, usage_out)
    assert reply.cost == pytest.approx((usage_in * 2 + usage_out * 10) / 1e6)


@pytest.mark.parametrize(
    ("fault", "unanswered"),
    [
        ({"status": 408}, 0),
        ({"status": 409}, 0),
        ({"status": 429}, 0),
        ({"status": 500}, 0),
        ({"status": 503}, 0),
        ({"garbage": "<html>bad gateway</html>"}, 1),
        ({"garbage": '{"error": "overloaded"}'}, 1),
        ({"garbage": "[1, 2]"}, 1),
        ({"cut": True}, 1),
        ({"hang": 8.0}, 1),
    ],
)
def test_what_passes_is_tried_again(fault: dict[str, Any], unanswered: int) -> None:
    with ReplayServer([cassette(fault)]) as server:
        reply = send(server, call(), timeout=2.0 if "hang" in fault else 20.0)
    assert (reply.text, reply.tries, reply.unanswered) == ("S1: 1", 2, unanswered)


def test_retry_after_is_waited_for() -> None:
    with ReplayServer([cassette({"status": 429, "retry_after": 0.6})]) as server:
        start = time.monotonic()
        reply = send(server, call())
    assert reply.tries == 2
    assert time.monotonic() - start >= 0.6


def test_retry_after_beyond_all_patience_ends_the_call() -> None:
    with (
        ReplayServer([cassette({"status": 429, "retry_after": 9999})]) as server,
        pytest.raises(TransportError, match="HTTP 429 after 1 request") as caught,
    ):
        send(server, call())
    assert "asks to wait 9,999 s, more than `endpoint.retry_after_max` (300)" in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_address_that_has_moved_is_said(status: int) -> None:
    with ReplayServer([cassette()]) as server:
        moved = {"status": status, "location": f"{server.url}/models"}
        server.by_question["Q"] = cassette(moved)
        with pytest.raises(TransportError, match=f"HTTP {status} after 1 request") as caught:
            send(server, call())
    assert caught.value.fatal
    assert f"`endpoint.base_url` as it is now ({server.url}/models)" in str(caught.value)


def test_a_group_of_errors_is_told_by_what_it_holds() -> None:
    error = openai.APIConnectionError(request=httpx.Request("POST", "http://h"))
    error.__cause__ = ExceptionGroup("unhandled errors", [OSError("nobody there")])
    told = transport.failed(error, Endpoint("http://h/v1", "teacher"), 2)
    assert str(told).endswith("connection failed, 2 requests: nobody there")


@pytest.mark.parametrize(
    ("status", "fatal"), [(401, True), (402, True), (403, False), (404, False)]
)
def test_of_an_endpoint_that_answers_others_one_refusal_ends_one_call(
    status: int, fatal: bool
) -> None:
    other = Cassette("other", "other", "c", replies={"fill": (Replied("S1: 2"),)})

    async def go(server: ReplayServer) -> None:
        async with Transport(Endpoint(server.url, "teacher")) as sending:
            assert (await sending.send(call("other"))).text == "S1: 2"
            await sending.send(call())

    with (
        ReplayServer([cassette({"status": status}), other]) as server,
        pytest.raises(TransportError, match=f"HTTP {status}") as caught,
    ):
        asyncio.run(go(server))
    assert caught.value.fatal is fatal


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 -0000"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "inf"}, None),
    ],
)
def test_the_forms_of_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers) == expected


def test_retries_are_bounded_and_the_error_says_what_happened() -> None:
    with (
        ReplayServer([cassette(*[{"status": 500}] * 9)]) as server,
        pytest.raises(TransportError, match="HTTP 500 after 3 requests") as caught,
    ):
        send(server, call(), attempts=3)
    assert not caught.value.fatal
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "fatal"),
    [
        ({"status": 400}, False),
        ({"status": 422}, False),
        ({"status": 404}, True),
        ({"status": 403}, True),
        ({"status": 429, "code": "insufficient_quota"}, True),
    ],
)
def test_what_does_not_pass_is_not_tried_again(fault: dict[str, Any], fatal: bool) -> None:
    with (
        ReplayServer([cassette(fault)]) as server,
        pytest.raises(TransportError, match="after 1 request") as caught,
    ):
        send(server, call())
    assert caught.value.fatal is fatal


def test_a_wrong_key_says_where_the_key_comes_from() -> None:
    with ReplayServer([cassette()], key="right") as server:
        with pytest.raises(TransportError, match="api_key_env") as caught:
            send(server, call(), api_key="wrong")
        assert caught.value.fatal
        assert send(server, call(), api_key="right").text == "S1: 1"


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def go() -> None:
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "teacher", attempts=2, wait_initial=0.01)
        async with Transport(endpoint) as transport:
            await transport.send(call())

    with pytest.raises(TransportError, match="connection failed") as caught:
        asyncio.run(go())
    assert caught.value.unanswered == 0, "nothing was sent"


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "model_length"}, "length"),
        ({"finish_reason": "content_filter"}, "content-filter"),
        ({"finish_reason": "abort"}, "unfinished"),
        ({"finish_reason": "tool_calls"}, "unfinished"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"finish_reason": "because"}, "unfinished"),
        ({"text": None}, "empty-reply"),
        ({"text": "  \n"}, "empty-reply"),
        ({"refusal": "I cannot help with that."}, "refusal"),
    ],
)
def test_finish_reasons_are_failures_that_were_paid(reply: dict[str, Any], failure: str) -> None:
    with ReplayServer([cassette(**reply)]) as server:
        got = send(server, call())
    assert got.failure == failure
    assert got.usage.input > 0


def test_a_request_that_no_cassette_knows_fails_loudly() -> None:
    with ReplayServer([cassette()]) as server:
        with pytest.raises(TransportError, match="no cassette answers"):
            send(server, call("another question"))
        with pytest.raises(TransportError, match="no cassette answers"):
            send(server, call(attempt=2))
    assert len(server.unmatched) == 2


def test_sampling_reaches_the_wire() -> None:
    seen: list[dict[str, Any]] = []
    with ReplayServer([cassette()]) as server:
        handler = server.RequestHandlerClass
        answer: Callable[..., None] = handler.answer  # type: ignore[attr-defined]

        class Spy(handler):  # type: ignore[misc, valid-type]
            def answer(self, request: dict[str, Any]) -> None:
                seen.append(request)
                answer(self, request)

        server.RequestHandlerClass = Spy
        one = call(temperature=0.3, extra={"reasoning_effort": "low"})
        send(server, one)
        send(server, one, max_tokens_field="max_completion_tokens")
    first, second = seen
    assert (first["temperature"], first["max_tokens"]) == (0.3, 50)
    assert first["reasoning_effort"] == "low"
    assert second["max_completion_tokens"] == 50
    assert "max_tokens" not in second


def test_the_worst_case_is_never_less_than_what_is_paid() -> None:
    one = call("Ünïcödé 漢字 " * 50)
    assert most_input_tokens(one.messages) >= len(one.messages[0].content.encode())
    assert worst_case(one, PRICES).cost >= PRICES.of(Usage(300, 50))


def test_cached_input_is_cheaper() -> None:
    prices = Prices(input=2.0, output=10.0, cached_input=0.5)
    assert prices.of(Usage(1_000_000, 0, cached=600_000)) == pytest.approx(0.8 + 0.3)


def test_a_rate_is_kept() -> None:
    async def go() -> float:
        limiter = PerMinute(1200)  # 20 a second
        start = time.monotonic()
        await asyncio.gather(*[limiter.take() for _ in range(9)])
        return time.monotonic() - start

    assert asyncio.run(go()) >= 0.4


def test_no_minute_has_more_than_its_limit_whatever_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Estimates are high, and what they were too high by comes back at any time."""
    monkeypatch.setattr(rate, "MINUTE", 1.0)
    started: list[float] = []

    async def one(limiter: PerMinute, number: int) -> None:
        await asyncio.sleep(0.02 * number)
        taken = await limiter.take(30)
        started.append(time.monotonic())
        await asyncio.sleep(0.4 if number % 3 else 0.05)
        limiter.give_back(taken, 10)

    async def go() -> None:
        limiter = PerMinute(100)
        await asyncio.gather(*[one(limiter, number) for number in range(30)])

    asyncio.run(go())
    most = max(sum(at <= other < at + 0.95 for other in started) for at in started)
    assert most * 10 <= 100
    assert max(started) - min(started) < 6, "what comes back is used"


def test_what_takes_more_than_the_limit_goes_alone() -> None:
    async def go() -> None:
        limiter = PerMinute(100)
        limiter.give_back(await limiter.take(150), 0)
        await limiter.take(90)

    asyncio.run(asyncio.wait_for(go(), 5))


def caller(server: ReplayServer, store: Store, budget: Budget = UNLIMITED) -> StoredCaller:
    endpoint = Endpoint(server.url, "teacher", concurrency=4, attempts=2, wait_initial=0.01)
    return StoredCaller(store, Transport(endpoint, PRICES), budget)


def test_concurrency_is_bounded_and_a_second_time_costs_nothing(tmp_path: Any) -> None:
    questions = [f"Q{i}" for i in range(12)]
    cassettes = [Cassette(q, q, "c", replies={"fill": (Replied("S1: 1"),)}) for q in questions]
    with ReplayServer(cassettes, latency=0.3) as server, Store(tmp_path / "s") as store:

        async def go() -> StoredCaller:
            asking = caller(server, store)
            await asyncio.gather(*[asking(call(q)) for q in questions])
            await asyncio.gather(*[asking(call(q)) for q in questions])
            return asking

        tally = asyncio.run(go()).tally
    assert (tally.sent, tally.from_store) == (12, 12)
    assert len(server.requests) == 12
    assert 2 <= server.most_in_flight <= 4


def test_a_client_carries_few_requests_and_is_used_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    build = transport.client_of
    monkeypatch.setattr(transport, "client_of", lambda one: made.append(one) or build(one))
    cassettes = [
        Cassette(q, q, "c", replies={"fill": (Replied("1"),)}) for q in map(str, range(40))
    ]
    with ReplayServer(cassettes, latency=0.2) as server:
        endpoint = Endpoint(server.url, "teacher", concurrency=20)

        async def go() -> None:
            async with Transport(endpoint) as sender:
                assert await sender.models()
                for some in (range(20), range(20, 40)):
                    await asyncio.gather(*[sender.send(call(str(one))) for one in some])

        asyncio.run(go())
    assert server.most_in_flight > transport.SHARE
    assert len(made) == 3  # 20 at once, 8 each


def test_the_same_call_at_the_same_time_is_paid_once(tmp_path: Any) -> None:
    with ReplayServer([cassette()], latency=0.1) as server, Store(tmp_path / "s") as store:

        async def go() -> list[Reply]:
            asking = caller(server, store)
            return list(await asyncio.gather(*[asking(call()) for _ in range(4)]))

        replies = asyncio.run(go())
    assert [reply.text for reply in replies] == ["S1: 1"] * 4
    assert len(server.requests) == 1


def test_the_budget_is_hard(tmp_path: Any) -> None:
    """What is in flight is held in full: not one request more is sent than fits."""
    questions = [f"Q{i}" for i in range(40)]
    cassettes = [Cassette(q, q, "c", replies={"fill": (Replied("S1: 1"),)}) for q in questions]
    worst = worst_case(call("Q10"), PRICES)
    budget = Budget(tokens=worst.tokens * 3)
    with ReplayServer(cassettes) as server, Store(tmp_path / "s") as store:

        async def go() -> int:
            asking = caller(server, store, budget)
            done = await asyncio.gather(
                *[asking(call(q)) for q in questions], return_exceptions=True
            )
            return sum(isinstance(one, BudgetExhausted) for one in done)

        refused = asyncio.run(go())
        paid = store.ledger().paid.tokens
    assert len(server.requests) == 40 - refused
    assert 0 < refused < 38, "what was settled below its worst case made room"
    assert paid == sum(sum(request.usage) for request in server.paid())
    assert budget.tokens is not None and paid <= budget.tokens


def test_a_stopping_run_sends_nothing_more(tmp_path: Any) -> None:
    with ReplayServer([cassette()]) as server, Store(tmp_path / "s") as store:

        async def go() -> None:
            asking = caller(server, store)
            asking.stopping.set()
            with pytest.raises(Stopped):
                await asking(call())

        asyncio.run(go())
        assert store.ledger().held.tokens == 0
    assert server.requests == []


CUT = {"cut": True}


@pytest.mark.parametrize("faults", [(CUT, CUT, CUT), ({"hang": 1.0},) * 3])
def test_every_request_that_is_not_answered_is_within_the_budget(
    faults: tuple[dict[str, Any], ...], tmp_path: Any
) -> None:
    """What was perhaps paid is booked before the next try, which may not fit any more."""
    worst = worst_case(call(), PRICES)
    budget = Budget(tokens=worst.tokens * 2)
    with ReplayServer([cassette(*faults)]) as server, Store(tmp_path / "s") as store:
        endpoint = Endpoint(server.url, "teacher", attempts=6, wait_initial=0.01, timeout=0.5)

        async def go() -> None:
            async with Transport(endpoint, PRICES) as sending:
                asking = StoredCaller(store, sending, budget)
                with pytest.raises(BudgetExhausted):
                    await asking(call())

        asyncio.run(go())
        ledger = store.ledger()
        assert store.requests() == (0, 2)
    assert len(server.requests) == 2
    assert ledger.lost.tokens == worst.tokens * 2
    assert ledger.held.tokens == ledger.paid.tokens == 0


def test_a_try_that_the_budget_has_no_room_for_waits_for_what_is_in_flight(tmp_path: Any) -> None:
    """Of another process, too; what it comes to makes room."""
    other = Cassette("other", "other", "c", replies={"fill": (Replied("S1: 2"),)})
    worst = worst_case(call("other"), PRICES)
    with (
        ReplayServer([cassette(CUT), other]) as server,
        Store(tmp_path / "s") as store,
        Store(tmp_path / "s") as second,
    ):
        budget = Budget(tokens=worst.tokens * 2 + 40)

        async def go() -> Reply:
            one = caller(server, store, budget)
            assert second.open_call(call("other"), worst, budget) is Opened.OURS
            asked = asyncio.create_task(one(call()))
            while store.ledger().lost.tokens == 0:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            assert not asked.done() and len(server.requests) == 1
            second.close_call(call("other").key, Reply("S1: 2", usage=Usage(10, 5)))
            return await asked

        reply = asyncio.run(go())
        assert (reply.text, reply.tries) == ("S1: 1", 2)
        (row,) = [row for row in store.calls() if row["tries"] == 2]
        assert (row["state"], row["lost"]) == ("done", 1)
        assert store.ledger().held.tokens == 0


KEY = "sk-echoed-0123456789"


@pytest.mark.parametrize("status", [400, 413])
def test_a_key_that_is_echoed_is_not_told(status: int, tmp_path: Any) -> None:
    """Neither in a reply nor in an error; also where it stands at the edge of what is told."""
    fault = {"status": status, "code": f"bad key {KEY}"}
    edges = [{"garbage": json.dumps({"error": "x" * start + KEY})} for start in range(150, 300, 9)]
    for one in (
        cassette(text=f"S1: {KEY}"),
        cassette(text=None, refusal=f"no {KEY}"),
        cassette(fault),
        *map(cassette, edges),
    ):
        with ReplayServer([one]) as server:
            try:
                told = send(server, call(), api_key=KEY, attempts=1).text
            except TransportError as error:
                told = str(error)
        assert KEY[:8] not in told
        assert "SECRET" in told or "xxx" in told


def test_a_word_that_serves_as_a_key_is_no_secret() -> None:
    with ReplayServer([cassette(text="S1: EMPTY token")]) as server:
        for key in ("EMPTY", "token", "none"):
            assert send(server, call(), api_key=key).text == "S1: EMPTY token"


def test_a_cancelled_call_is_on_the_books_as_perhaps_paid(tmp_path: Any) -> None:
    with ReplayServer([cassette()], latency=2.0) as server, Store(tmp_path / "s") as store:

        async def go() -> None:
            asking = caller(server, store)
            task = asyncio.create_task(asking(call()))
            while not server.in_flight:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(go())
        (row,) = store.calls()
        assert (row["state"], row["lost"]) == ("lost", 1)
        assert store.ledger().held.tokens == 0
