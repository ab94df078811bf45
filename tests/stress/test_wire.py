"""Calls at their time, chains in order, hang-ups, and rounds that end."""

from __future__ import annotations

import threading
import time
from typing import Any

from sglang_multiverse.stress.wire import Call, Wire

from .liar import final, serving


def test_a_stream_is_read_and_hung_up_on() -> None:
    def say(path: str, body: Any) -> list[Any]:
        return [final([1]), 0.6, final([1, 2])]

    with serving(say) as url:
        whole, cut = Wire(url).run(
            [
                [Call("a", "/generate", {}, stream=True)],
                [Call("b", "/generate", {}, stream=True, leave=0.2)],
            ]
        )
    assert [len(event["output_ids"]) for event in whole.events] == [1, 2]
    assert not whole.left
    assert cut.left
    assert len(cut.events) == 1


def test_chains_keep_their_order() -> None:
    seen: list[tuple[str, float]] = []

    def say(path: str, body: Any) -> tuple[int, Any]:
        seen.append((path, time.monotonic()))
        return 200, {}

    chain = [Call("a", "/first"), Call("b", "/second", at=0.3), Call("c", "/third")]
    with serving(say) as url:
        answers = Wire(url).run([chain, [Call("d", "/other", at=0.1)]])
    assert [answer.call.kind for answer in answers] == ["a", "b", "c", "d"]
    assert [path for path, _ in seen] == ["/first", "/other", "/second", "/third"]
    assert seen[2][1] - seen[0][1] >= 0.3


def test_what_still_runs_is_ended_by_the_finals() -> None:
    aborted = threading.Event()

    def say(path: str, body: Any) -> tuple[int, Any]:
        if path == "/abort_request":
            aborted.set()
            return 200, {}
        assert aborted.wait(20)
        return 200, final([])

    finals = [Call("abort", "/abort_request", {"abort_all": True})]
    with serving(say) as url:
        (answer,) = Wire(url).run([[Call("a", "/generate", {})]], wind_up=0.2, finals=finals)
    assert answer.status == 200


def test_a_server_that_is_gone_is_a_fault() -> None:
    with serving(lambda path, body: (200, {})) as url:
        pass
    answer = Wire(url).ask("/health")
    assert answer.status is None
    assert answer.fault is not None
    assert "Connect" in answer.fault


def test_bytes_go_as_they_are() -> None:
    got: list[Any] = []

    def say(path: str, body: Any) -> tuple[int, Any]:
        got.append(body)
        return 400, {}

    with serving(say) as url:
        Wire(url).run([[Call("raw", "/generate", b'{"text": ')]])
    assert got == [b'{"text": ']
