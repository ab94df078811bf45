"""No reply ends a run, and neither does anything else without one clear line."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.data_pipeline import config as configs
from sglang_multiverse.data_pipeline.pipeline import Run
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.stages.payload import payload, refuses
from sglang_multiverse.data_pipeline.store.store import Store, StoreError
from sglang_multiverse.data_pipeline.teacher.call import Sampling, Usage
from sglang_multiverse.data_pipeline.teacher.caller import Stopped, StoredCaller
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied
from sglang_multiverse.data_pipeline.teacher.transport import (
    Endpoint,
    Transport,
    TransportError,
)

from .driving import drive
from .odd import BODIES, DRESSED, MAX_TOKENS, NONSENSE, STATUSES, USELESS, OddServer, fuzz
from .replay import ReplayServer
from .test_pipeline import command, run
from .test_transport import PRICES, call, cassette, send

Configure = Callable[..., Path]


def test_whatever_the_endpoint_says_every_item_is_settled(
    light: list[Cassette], tmp_path: Path
) -> None:
    found = fuzz(light, items=60, seed=3, folder=tmp_path)
    print(f"\n{dict(found.codes)}; {sum(found.odd.values())} odd replies")
    assert found.problems == []
    assert sum(found.odd.values()) > 60
    assert found.codes["accepted"] > 20


def asked(name: str) -> Any:
    """The reply of a server whose every answer is the oddity ``name``, after two requests."""
    one = call(max_tokens=MAX_TOKENS)
    with OddServer([cassette()], share=1.0) as server:
        server.draw = lambda: name  # type: ignore[method-assign]
        return send(server, one, attempts=2), server.charged


@pytest.mark.parametrize("name", DRESSED)
def test_a_right_answer_is_read_however_it_is_dressed(name: str) -> None:
    reply, charged = asked(name)
    assert reply.failure is None
    assert payload(reply.text) == "S1: 1"
    assert reply.usage.input + reply.usage.output == charged


@pytest.mark.parametrize("name", USELESS)
def test_what_is_no_answer_is_paid_for_and_can_be_stored(name: str, tmp_path: Path) -> None:
    reply, charged = asked(name)
    assert reply.usage.input + reply.usage.output == charged
    failed = {"refusal", "empty", "blank", "null", "16 MiB", "cut", "filtered"}
    unfinished = {one for one in USELESS if "finish reason" in one} | {"aborted", "broke off"}
    assert (reply.failure is not None) == (name in failed | unfinished)
    assert (reply.failure == "unfinished") == (name in unfinished)
    assert len(reply.text) < 10_000
    reply.text.encode("utf-8")


@pytest.mark.parametrize("name", [*NONSENSE, *BODIES])
def test_nonsense_is_asked_again_and_then_given_up(name: str) -> None:
    with pytest.raises(TransportError, match="2 requests") as caught:
        asked(name)
    assert caught.value.unanswered == 2


@pytest.mark.parametrize("name", STATUSES)
def test_what_is_too_long_is_told_from_what_failed(name: str) -> None:
    if name in ("too long", "context code", "too large"):
        reply, charged = asked(name)
        assert (reply.failure, reply.usage, charged) == ("too-long", Usage(), 0)
    else:
        with pytest.raises(TransportError) as caught:
            asked(name)
        assert not caught.value.fatal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S1: a\n```py\nx\n```\nS2: b", "S1: a\n```py\nx\n```\nS2: b"),
        ("```\na\n```\n\n```\nb\n```", "```\na\n```\n\n```\nb\n```"),
        ("Sure, let x = 1.\nThen y = 2.", "Sure, let x = 1.\nThen y = 2."),
        ("Okay.\n\n<Parallel>\nx\n</Parallel>", "<Parallel>\nx\n</Parallel>"),
        ("S1: a\n\nI hope this helps!", "S1: a"),
        ("no answer here\n\nI hope this helps!", "no answer here\n\nI hope this helps!"),
        ("S2: before\n```\nS1: a\n```", "S2: before\n```\nS1: a\n```"),
        ("\ufeffS1: a", "S1: a"),
        ("I'm sorry for the delay. Here it is:\nS1: a", "S1: a"),
        ("S1: what follows is this:\nS2: b", "S1: what follows is this:\nS2: b"),
    ],
)
def test_what_may_be_the_answer_stays(text: str, expected: str) -> None:
    assert payload(text) == expected


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I’m sorry, but I can’t assist with that request.", True),
        ("Sorry, I cannot rewrite this.", True),
        ("As an AI language model I have no opinion.", True),
        ("<think>Not allowed.</think>I won't do this.", True),
        ("S1: I can't see why", False),
        ("I can't see it at once, so:\nS1: try", False),
        ("Unfortunately the sum is 7.", False),
        ("", False),
    ],
)
def test_refusals_in_words(text: str, refused: bool) -> None:
    assert refuses(text) is refused


def test_a_reply_that_was_cut_is_asked_for_with_more_room_once(cassettes: list[Cassette]) -> None:
    one = next(cassette for cassette in cassettes if cassette.name == "clean")
    cut = Replied("S1", finish_reason="length")
    task = next(iter(one.replies))
    replies = {**one.replies, task: (cut, cut, cut)}
    recipe = Recipe("teacher", Sampling(max_tokens=100))
    driven = drive(Cassette(one.name, one.question, one.chain, replies=replies), recipe)
    rooms = [one.sampling.max_tokens for one in driven.calls]
    assert rooms == [100, 200, 200]
    assert len({one.key for one in driven.calls}) == 3


def test_an_error_of_this_code_is_kept_with_its_traceback(
    light: list[Cassette], configure: Configure, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run goes on."""
    from sglang_multiverse.data_pipeline import workers

    real = workers.begin

    def begin(record: Any, recipe: Any) -> Any:
        if record.id == light[0].id:
            raise KeyError("nobody thought of this")
        return real(record, recipe)

    monkeypatch.setattr(workers, "begin", begin)
    with ReplayServer(light) as server:
        finished, _ = run(configure(server.url, items=light), store)
    assert (finished.end, finished.progress.errors) == ("complete", 1)
    assert finished.progress.settled == len(light) - 1
    with Store(store) as opened:
        outcome = opened.outcomes(finished.run)[light[0].id]
    assert (outcome.status, outcome.stage, outcome.code) == ("error", "unforeseen", "KeyError")
    assert outcome.result is not None
    assert "nobody thought of this" in outcome.result["traceback"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def said(config: Path, store: Path) -> tuple[int, list[str]]:
    """Exit code and the lines of an error of ``curate run``."""
    done = CliRunner().invoke(app, ["curate", "run", str(config), "--store", str(store)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, [line for line in done.stderr.splitlines() if line.strip()]


@pytest.mark.parametrize("what", ["folder", "no store", "in a file", "damaged"])
def test_a_store_that_is_none_is_said_in_one_line(
    what: str, light: list[Cassette], configure: Configure, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    if what == "folder":
        path.mkdir()
    elif what == "no store":
        path.write_text("something else" * 100)
    elif what == "in a file":
        path.write_text("a file")
        path = path / "store.sqlite"
    else:
        with Store(path):
            pass
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with ReplayServer(light) as server:
        code, lines = said(configure(server.url, items=light), path)
    assert code == 2
    assert len(lines) == 1
    assert str(path) in lines[0]


def test_a_store_that_fills_up_ends_the_run_and_keeps_what_it_has(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    def limit(one: Run) -> None:
        db = one.store._db
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0] + 12}")

    with ReplayServer(light) as server:
        config = configure(server.url, items=light)
        finished, _ = run(config, store, before=limit)
        assert finished.end == "store"
        assert "full" in finished.reason
        assert str(store) in finished.reason
        again, summary = run(config, store)
    assert again.end == "complete"
    assert summary.by_status["pending"] == 0


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path):
        pass
    path.chmod(0o444)
    try:
        if os.access(path, os.W_OK):
            pytest.skip("this user may write everything")
        with pytest.raises(StoreError, match="writable"):
            Store(path)
    finally:
        path.chmod(0o644)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"gates": {"max_depth": "two"}}, "gates.max_depth"),
        ({"gates": {"max_distance": [1]}}, "gates.max_distance"),
        ({"gates": {"require_block": "perhaps"}}, "gates.require_block"),
        ({"gates": {"window": -1}}, "gates.window"),
        ({"gates": {"max_dept": 2}}, "max_dept"),
        ({"attempts": "some"}, "attempts"),
        ({"room": -1}, "room"),
        ({"benefit": "much"}, "benefit"),
        ({"judge": "perhaps"}, "judge"),
        ({"sampling": {"max_tokens": "all"}}, "sampling.max_tokens"),
        ({"budget": {"tokens": "none"}}, "budget.tokens"),
        ({"gates": {"max_distance": float("nan")}}, "gates.max_distance"),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature"),
        ({"sampling": {"extra": {"since": datetime.date(2020, 1, 1)}}}, "sampling.extra"),
        ({"sampling": {"max_tokens": 10**30}}, "sampling.max_tokens"),
        ({"attempts": 10**30}, "attempts"),
        ({"endpoint": {"base_url": ""}}, "endpoint.base_url"),
        ({"endpoint": {"base_url": "http://[::1"}}, "endpoint.base_url"),
        ({"endpoint": {"model": ""}}, "endpoint.model"),
        ({"endpoint": {"base_url": "http://h:99999/v1"}}, "endpoint.base_url"),
        ({"sampling": {"extra": {"n": 3}}}, "sampling.extra: `n` is set by"),
        ({"sampling": {"extra": {"model": "x"}}}, "`model` is set by `endpoint.model`"),
        ({"sampling": {"extra": {"max_tokens": 9}}}, "is set by `sampling.max_tokens`"),
        ({"sampling": {"extra": {"max_completion_tokens": 9}}}, "by `sampling.max_tokens`"),
        ({"sampling": {"extra": {"stream": True}}}, "`stream` is set by"),
        ({"sampling": {"extra": {"messages": []}}}, "`messages` is set by"),
        ({"sample": {"extra": {"max_new_tokens": 9}}}, "sample.extra: `max_new_tokens`"),
    ],
)
def test_a_field_of_another_type_is_an_error_before_the_first_call(
    fields: dict[str, Any], where: str, configure: Configure
) -> None:
    with pytest.raises(configs.ConfigError, match=where.replace(".", r"\.")):
        configs.load(str(configure("http://localhost:9/v1", **fields)))


def test_a_key_that_no_header_can_hold_is_refused_unseen(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "secret\nkey")
    path = configure("http://localhost:9/v1", endpoint={"api_key_env": "THE_KEY"})
    with pytest.raises(configs.ConfigError, match="THE_KEY") as caught:
        configs.load(str(path)).endpoint.build()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("what", ["wrong key", "nobody there", "no such model"])
def test_before_any_item_one_request_shows_that_the_endpoint_is_right(
    what: str, light: list[Cassette], configure: Configure, store: Path
) -> None:
    with ReplayServer(light, key="right" if what == "wrong key" else None) as server:
        url = "http://127.0.0.1:9/v1" if what == "nobody there" else server.url
        if what == "no such model":
            server.preflight = {"status": 404, "code": "model_not_found"}
        config = configure(url, items=light, endpoint={"attempts": 2})
        code, lines = said(config, store)
        assert code == 1
        assert "no item was asked for" in " ".join(lines)
        assert server.requests == []
    with Store(store) as opened:
        assert [row["item"] for row in opened.calls()] == []


def test_a_rerun_that_needs_no_call_makes_none(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    with ReplayServer(light) as server:
        config = configure(server.url, items=light)
        assert said(config, store)[0] == 0
        assert server.preflights == 1
        assert said(config, store)[0] == 0
        assert server.preflights == 1


def test_stopping_wakes_who_waits_for_another_try(tmp_path: Path) -> None:
    one = cassette({"status": 500}, {"status": 500})

    async def go(server: ReplayServer, store: Store) -> float:
        endpoint = Endpoint(server.url, "teacher", wait_initial=60, wait_max=60)
        async with Transport(endpoint, PRICES) as transport:
            caller = StoredCaller(store, transport)
            task = asyncio.create_task(caller(call()))
            while not server.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            begun = time.monotonic()
            caller.stop()
            with pytest.raises(Stopped):
                await task
            return time.monotonic() - begun

    with ReplayServer([one]) as server, Store(tmp_path / "store.sqlite") as store:
        assert asyncio.run(go(server, store)) < 1
        assert store.ledger().held.tokens == 0
        assert store.ledger().lost.tokens == 0


def test_a_request_that_fails_while_the_run_ends_is_not_tried_again(tmp_path: Path) -> None:
    async def go(server: ReplayServer, store: Store) -> None:
        endpoint = Endpoint(server.url, "teacher", wait_initial=60, wait_max=60, timeout=0.5)
        async with Transport(endpoint, PRICES) as transport:
            caller = StoredCaller(store, transport)
            task = asyncio.create_task(caller(call()))
            while not server.requests:
                await asyncio.sleep(0.01)
            caller.stop()
            with pytest.raises(Stopped):
                await asyncio.wait_for(task, 10)

    hanging = cassette({"hang": 3.0})
    with ReplayServer([hanging]) as server, Store(tmp_path / "store.sqlite") as store:
        asyncio.run(go(server, store))
        assert store.ledger().held.tokens == 0
        assert store.ledger().lost.tokens > 0


def test_one_interrupt_ends_a_run_that_waits_for_another_try(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    faults = ({"status": 500},) * 50
    failing = [
        Cassette(
            one.name,
            one.question,
            one.chain,
            one.attempt,
            one.answer,
            {name: (Replied("x", faults=faults),) for name in one.replies},
        )
        for one in light
    ]
    with ReplayServer(failing) as server:
        endpoint = {"wait_initial": 30, "wait_max": 30, "attempts": 5}
        config = configure(server.url, items=failing, endpoint=endpoint)
        process = subprocess.Popen(
            command(config, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while len(server.requests) < 4 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - begun < 5  # 2 s, and a machine with other work
    assert process.returncode == 1, err
    assert "the same command goes on from here" in err
    with sqlite3.connect(store) as db:
        assert db.execute("SELECT count(*) FROM calls WHERE state = 'open'").fetchone() == (0,)
