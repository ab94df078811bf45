"""Whole runs against the replay server: outcomes, costs, reruns, death, two processes, the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sglang_multiverse.cli import app, curation
from sglang_multiverse.data_pipeline import config as configs
from sglang_multiverse.data_pipeline.corpus.summary import Summary, summarise
from sglang_multiverse.data_pipeline.pipeline import Finished, Progress, Run
from sglang_multiverse.data_pipeline.source.ingest import ingest
from sglang_multiverse.data_pipeline.store.store import Outcome, Store
from sglang_multiverse.data_pipeline.teacher.caller import StoredCaller
from sglang_multiverse.data_pipeline.teacher.cassette import (
    Cassette,
    Replied,
    load,
    record_cassettes,
)
from sglang_multiverse.data_pipeline.teacher.transport import Transport

from .conftest import ACCEPTED, CALLS, OUTCOMES, calls, expected, write_rows
from .replay import ReplayServer

Configure = Callable[..., Path]
BROKEN = ({"status": 500},) * 9


def run(
    config: Path, store_path: Path, before: Callable[[Run], None] = lambda run: None
) -> tuple[Finished, Summary]:
    """One run in this process."""
    loaded = configs.load(str(config))
    ingested = ingest(loaded.source)

    async def go(store: Store) -> Finished:
        async with Transport(loaded.endpoint.build(), loaded.price_list()) as transport:
            one = Run(
                ingested.records,
                loaded.recipe(),
                store,
                StoredCaller(store, transport, loaded.limits()),
                source=ingested.identity,
                about=loaded.about(),
            )
            before(one)
            return await one.run()

    with Store(store_path) as store:
        return asyncio.run(go(store)), summarise(store)


def command(config: Path, store: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "sglang_multiverse.cli", "curate", "run"]
    return [*program, str(config), "--store", str(store), *more]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def outcomes(store: Path) -> dict[str, Outcome]:
    """Those of the run started last."""
    with Store(store) as opened:
        return opened.outcomes(opened.run()["run"])


def codes(store: Path, cassettes: list[Cassette]) -> dict[str, str]:
    names = {cassette.id: cassette.name for cassette in cassettes}
    return {names[item]: outcome.code for item, outcome in outcomes(store).items()}


def test_every_item_comes_out_as_its_cassette_says(
    server: ReplayServer, configure: Configure, store: Path, cassettes: list[Cassette]
) -> None:
    finished, _ = run(configure(server.url), store)
    assert finished.end == "complete"
    assert codes(store, cassettes) == expected(cassettes)
    paid = Counter(request.item for request in server.paid())
    assert paid == {name: calls for name, (calls, _) in OUTCOMES.items()}


def test_costs_are_what_the_server_charged(
    server: ReplayServer, configure: Configure, store: Path
) -> None:
    _, summary = run(configure(server.url), store)
    charged_in = sum(request.usage[0] for request in server.paid())
    charged_out = sum(request.usage[1] for request in server.paid())
    assert summary.paid_tokens == charged_in + charged_out
    assert summary.paid_cost == pytest.approx((charged_in * 2 + charged_out * 10) / 1e6)
    assert summary.cost == pytest.approx(summary.paid_cost)
    assert sum(use.calls for use in summary.stages.values()) == CALLS


def test_faults_are_lived_through_and_counted(
    server: ReplayServer, configure: Configure, store: Path, cassettes: list[Cassette]
) -> None:
    _, summary = run(configure(server.url), store)
    statuses = [request.status for request in server.requests if request.item == "two-blocks"]
    assert Counter(statuses) == {200: 6, 429: 1, 500: 1, 0: 3}
    assert summary.unanswered == 3, "garbage, cut and hang may have been charged"
    assert summary.tries == len(server.requests)


def test_an_unchanged_rerun_makes_no_call(
    server: ReplayServer, configure: Configure, store: Path
) -> None:
    config = configure(server.url)
    run(config, store)
    first = outcomes(store)
    sent = len(server.requests)
    finished, _ = run(config, store)
    assert len(server.requests) == sent
    assert (finished.end, finished.progress.settled) == ("complete", len(OUTCOMES))
    assert outcomes(store) == first


def test_other_gates_recompute_the_outcomes_without_a_call(
    server: ReplayServer, configure: Configure, store: Path, cassettes: list[Cassette]
) -> None:
    run(configure(server.url), store)
    sent = len(server.requests)
    run(configure(server.url, benefit=0), store)
    assert len(server.requests) == sent
    assert set(codes(store, cassettes).values()) >= {"no-benefit"}


def test_a_changed_prompt_asks_again_only_for_what_depends_on_it(
    server: ReplayServer, configure: Configure, store: Path, tmp_path: Path
) -> None:
    run(configure(server.url), store)
    before = len(server.paid())
    own = tmp_path / "prompts"
    own.mkdir()
    from sglang_multiverse.data_pipeline.teacher.prompt import FOLDER

    text = (FOLDER / "rewrite.md").read_text()
    (own / "rewrite.md").write_text(text.replace("version: 1", "version: 2") + "\nTake care.\n")
    run(configure(server.url, prompts=str(own)), store)
    again = [request.task for request in server.paid()[before:]]
    assert again and all(task.startswith("rewrite") for task in again)


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(
    server: ReplayServer, configure: Configure, store: Path, cassettes: list[Cassette]
) -> None:
    limit = 40_000
    finished, summary = run(configure(server.url, budget={"tokens": limit}), store)
    assert finished.end == "budget"
    assert "Raise `budget`" in finished.reason
    assert summary.paid_tokens + summary.lost_tokens <= limit
    assert summary.by_status["pending"] > 0
    paid = len(server.paid())
    assert 0 < paid < CALLS
    finished, _ = run(configure(server.url), store)
    assert finished.end == "complete"
    assert codes(store, cassettes) == expected(cassettes)
    assert len(server.paid()) == CALLS


def test_a_stopped_run_goes_on_where_it_was(
    server: ReplayServer, configure: Configure, store: Path, cassettes: list[Cassette]
) -> None:
    def stop_soon(one: Run) -> None:
        one.observe = lambda progress: one.stop() if progress.settled >= 3 else None

    finished, summary = run(configure(server.url), store, stop_soon)
    assert finished.end == "stopped"
    assert 3 <= len(outcomes(store)) < len(OUTCOMES)
    assert summary.by_status["error"] == 0
    finished, _ = run(configure(server.url), store)
    assert finished.end == "complete"
    assert codes(store, cassettes) == expected(cassettes)
    assert _paid_once(server)


def _paid_once(server: ReplayServer) -> bool:
    """No reply was paid for twice."""
    counts = Counter((r.item, r.task, r.attempt) for r in server.paid())
    return set(counts.values()) == {1}


def test_replies_that_all_end_for_an_unknown_reason_end_the_run(
    cassettes: list[Cassette], configure: Configure, store: Path
) -> None:
    """Rather than to pay for every item and reject it."""
    odd = [
        replace(one, replies={"outline-steps": (Replied("S1: x", finish_reason="because"),) * 3})
        for one in cassettes
    ]
    with ReplayServer(odd[:2]) as server:
        run(configure(server.url, items=odd[:2]), store)
    said = [one.result["message"] for one in outcomes(store).values() if one.result]
    assert len(said) == 2 and all("finish reason 'because'" in one for one in said)
    with ReplayServer(odd) as server:
        config = configure(server.url, items=odd, endpoint={"concurrency": 1})
        finished, _ = run(config, store.with_name("other"))
        assert 10 <= len(server.paid()) < 3 * len(odd)
    assert finished.end == "endpoint"
    assert "10 replies in a row ended before they were done" in finished.reason
    assert "finish reason 'because'" in finished.reason


def test_an_endpoint_that_is_gone_ends_the_run(configure: Configure, store: Path) -> None:
    config = configure("http://127.0.0.1:9/v1", endpoint={"attempts": 1})
    finished, summary = run(config, store)
    assert finished.end == "endpoint"
    assert "connection failed" in finished.reason
    assert summary.by_status["error"] >= 10
    assert summary.paid_tokens == summary.lost_tokens == 0


def test_a_wrong_key_ends_the_run_at_once(
    cassettes: list[Cassette], configure: Configure, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "wrong-key")
    with ReplayServer(cassettes, key="right-key") as server:
        config = configure(server.url, endpoint={"api_key_env": "TEACHER_KEY", "concurrency": 1})
        finished, summary = run(config, store)
    assert finished.end == "endpoint"
    assert "api_key_env" in finished.reason
    assert summary.by_status == {"pending": len(OUTCOMES)}


def test_failed_items_are_tried_again_by_the_next_run(
    cassettes: list[Cassette], configure: Configure, store: Path
) -> None:
    def faulty(cassette: Cassette) -> Cassette:
        if cassette.name != "clean":
            return cassette
        (reply,) = cassette.replies["fill"]
        broken = replace(reply, faults=tuple([{"status": 500}] * 2))
        return replace(cassette, replies={**cassette.replies, "fill": (broken,)})

    with ReplayServer([faulty(cassette) for cassette in cassettes]) as server:
        config = configure(server.url, endpoint={"attempts": 2})
        finished, summary = run(config, store)
        assert finished.end == "complete"
        failed = codes(store, cassettes)["clean"]
        assert failed == "transport"
        assert summary.by_status["error"] == finished.progress.errors
        run(config, store)
        finished, summary = run(config, store)
    assert codes(store, cassettes)["clean"] == ""
    assert _paid_once(server)


def test_an_item_that_another_process_has_taken_up_is_waited_for(
    cassettes: list[Cassette], configure: Configure, store: Path
) -> None:
    """It failed here; the other one settles it, or dies and leaves it pending."""
    clean = next(one for one in cassettes if one.name == "clean")
    (reply,) = clean.replies["fill"]
    broken = replace(clean, replies={**clean.replies, "fill": (replace(reply, faults=BROKEN),)})
    others: list[Store] = []

    def take_up(one: Run) -> None:
        def observe(progress: Progress) -> None:
            if progress.errors and not others:
                others.append(Store(store))
                assert others[0].claim(one.name, clean.id)
                asyncio.get_running_loop().call_later(0.5, settle, one.name)

        def settle(name: str) -> None:
            if settles:
                others[0].settle(name, Outcome(clean.id, "rejected", "fill", "other", {}))
            others[0].close()

        one.observe = observe

    for settles in (False, True):
        others.clear()
        with ReplayServer([broken]) as server:
            config = configure(server.url, items=[clean], endpoint={"attempts": 2})
            finished, _ = run(config, store, take_up)
        progress = finished.progress
        assert (progress.rejected, progress.errors, progress.open) == (settles, 0, not settles)


def test_an_item_that_is_pending_is_no_success(
    cassettes: list[Cassette], configure: Configure, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Finished("run", "complete", Progress(3, settled=2, accepted=2))
    monkeypatch.setattr(curation, "_run", lambda *arguments: done)
    config = configure("http://127.0.0.1:9/v1", items=cassettes[:1])
    told = CliRunner().invoke(app, ["curate", "run", str(config), "--store", str(store)])
    assert told.exit_code == 1
    assert "1 pending of 3" in told.output and "another process left items pending" in told.output


@pytest.mark.parametrize(
    ("status", "end"), [(403, "complete"), (404, "complete"), (402, "endpoint")]
)
def test_one_item_that_is_refused_is_its_own(
    cassettes: list[Cassette], configure: Configure, store: Path, status: int, end: str
) -> None:
    """Where others are answered; the next run tries it again."""
    items = [one for one in cassettes if one.name in ("clean", "two-blocks", "fenced")]

    def refused(one: Cassette) -> Cassette:
        (reply,) = one.replies["fill"]
        first = replace(reply, faults=({"status": status},))
        return replace(one, replies={**one.replies, "fill": (first,)})

    items = [refused(one) if one.name == "clean" else one for one in items]
    with ReplayServer(items) as server:
        config = configure(server.url, items=items)
        finished, _ = run(config, store)
        assert finished.end == end
        assert finished.progress.errors == (end == "complete")
        assert run(config, store)[0].progress.accepted == len(items)


def test_kill_nine_loses_nothing_and_pays_nothing_twice(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    """Killed again and again at any moment, then finished: what was answered is never asked for
    again, and what was in flight is on the books."""
    with ReplayServer(light, latency=0.05) as server:
        config = configure(server.url, items=light)
        for wanted in (3, 15, 40):
            process = subprocess.Popen(
                command(config, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            deadline = time.monotonic() + 60
            while len(server.requests) < wanted and time.monotonic() < deadline:
                assert process.poll() is None, process.communicate()
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        time.sleep(0.2)  # the server finishes what the dead had asked for
        with Store(store) as opened:
            known = {row["key"]: row["state"] for row in opened.calls()}
            answered = sum(state == "done" for state in known.values())
            in_flight = opened.ledger().lost.tokens
        done = subprocess.run(command(config, store), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    with Store(store) as opened:
        summary = summarise(opened)
    assert answered > 0 and "open" not in known.values()
    assert codes(store, light) == expected(light)
    # Every request beyond one per reply was in flight when its process was killed.
    twice = len(server.paid()) - calls(light)
    assert 0 <= twice <= summary.unanswered
    assert in_flight > 0
    with Store(store) as opened:
        firsts = [row for row in opened.calls() if row["stage"] == "preflight"]
    assert 1 <= len(firsts) <= 4
    assert summary.paid_tokens == sum(
        sum(use) for use in ((s.input_tokens, s.output_tokens) for s in summary.stages.values())
    ) + sum(row["input_tokens"] + row["output_tokens"] for row in firsts)


def test_two_processes_share_one_store(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    with ReplayServer(light, latency=0.05) as server:
        config = configure(server.url, items=light)
        both = [
            subprocess.Popen(
                command(config, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        said = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert all(f"0 failed, 0 pending of {len(light)}" in out for out, _ in said), said
    assert codes(store, light) == expected(light)
    assert _paid_once(server)


def test_interrupting_ends_after_the_calls_in_flight(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    with ReplayServer(light, latency=0.3) as server:
        config = configure(server.url, items=light)
        process = subprocess.Popen(
            command(config, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while len(server.requests) < 4 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "goes on from here" in err
    with Store(store) as opened:
        states = Counter(row["state"] for row in opened.calls())
        assert set(states) == {"done"}, "nothing was dropped"
        assert opened.ledger().held.tokens == 0
        faults = sum(row["lost"] for row in opened.calls())
    assert states["done"] == len(server.paid()) + server.preflights
    assert faults <= 1


def test_a_recording_replays_to_the_same_outcomes(
    server: ReplayServer,
    configure: Configure,
    store: Path,
    tmp_path: Path,
    cassettes: list[Cassette],
) -> None:
    config = configure(server.url)
    run(config, store)
    folder = tmp_path / "recorded"
    records = ingest(configs.load(str(config)).source).records
    with Store(store) as opened:
        paths = record_cassettes(opened, records, folder)
    recorded = [load(path) for path in paths]
    with ReplayServer(recorded) as again:
        run(configure(again.url), tmp_path / "second.sqlite")
        assert again.unmatched == []
    assert outcomes(store) == outcomes(tmp_path / "second.sqlite")
    assert len(again.paid()) == CALLS


def test_a_key_that_is_echoed_is_scrubbed(tmp_path: Path, store: Path, cassettes: Any) -> None:
    clean = next(cassette for cassette in cassettes if cassette.name == "clean")
    (steps,) = clean.replies["outline-steps"]
    leaky = {**clean.replies, "outline-steps": (Replied(f"key sk-abcdef123\n{steps.text}"),)}
    leaky["outline-steps"] *= 3
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [clean])
    with ReplayServer([replace(clean, replies=leaky)], key="sk-abcdef123") as server:
        config = tmp_path / "c.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "source": {"files": [str(rows)]},
                    "endpoint": {
                        "base_url": server.url,
                        "model": "teacher",
                        "api_key_env": "ECHOED_KEY",
                    },
                }
            )
        )
        done = subprocess.run(
            command(config, store, "--record", str(tmp_path / "tapes")),
            env={**os.environ, "ECHOED_KEY": "sk-abcdef123"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    (tape,) = (tmp_path / "tapes").iterdir()
    assert "sk-abcdef123" not in tape.read_text()
    assert "SECRET" in tape.read_text()
    with Store(store) as opened:
        said = json.dumps([list(row) for row in opened.calls()])
    assert "SECRET" in said and "sk-abcdef123" not in said


def test_accepted_items_are_the_expected_ones(
    server: ReplayServer, configure: Configure, store: Path, cassettes: list[Cassette]
) -> None:
    run(configure(server.url), store)
    names = {cassette.id: cassette.name for cassette in cassettes}
    found = outcomes(store)
    accepted = [names[i] for i, o in found.items() if o.status == "accepted"]
    assert sorted(accepted) == sorted(ACCEPTED)
    for outcome in found.values():
        json.dumps(outcome.result)
