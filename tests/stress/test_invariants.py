"""Each thing that must not happen is noticed when it does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_multiverse.stress.invariants import Probe, at_rest, of_answer, of_log, of_twins
from sglang_multiverse.stress.wire import Answer, Call, Wire

from .liar import final, serving


def answer(value: Any = None, *, status: int = 200, text: str | None = None, **call: Any) -> Answer:
    made = Call("test", call.pop("path", "/generate"), {}, **call)
    if isinstance(value, list) and made.stream:
        return Answer(made, status, events=value)
    return Answer(made, status, json.dumps(value) if text is None else text)


def what(one: Answer) -> list[str]:
    return [violation.what for violation in of_answer(one)]


def test_a_good_answer_is_good() -> None:
    assert what(answer(final([1, 2, 3]), budget=3, batch=1, output_ids=[1, 2, 3])) == []
    assert what(answer([final([1]), final([2])], batch=2)) == []
    assert what(answer(status=400, text="no such field")) == []
    assert what(answer(status=500, text="The request does not fit the KV cache")) == []
    assert what(answer(status=503, text="aborted")) == []


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (answer(final([1, 2]), budget=1), "max_new_tokens bounds the answer"),
        (answer(final([1, 2], completion_tokens=3)), "completion_tokens counts output_ids"),
        (answer(final([1], multiverse_injected=[[0, 2]])), "injected spans lie in the answer"),
        (answer(final([1, 2], output_token_logprobs=[[0, 1]])), "a logprob for every token"),
        (answer(final([1]), output_ids=[2]), "a forced answer is the one forced"),
        (answer([final([1])], batch=2), "a batch is answered whole"),
        (answer({"strange": 1}, batch=1), "answers are of one form"),
        (answer(status=500, text="{}"), "no server error without a reason"),
        (answer(status=400, text="busy", path="/flush_cache"), None),
    ],
)
def test_what_is_wrong_with_one_answer(seen: Answer, expected: str | None) -> None:
    assert what(seen) == ([] if expected is None else [expected])


def test_a_status_that_must_come() -> None:
    call = Call("flush in pause retract", "/flush_cache", {}, status=200)
    assert what(Answer(call, 400, "busy")) == ["flush in pause retract is answered 200"]
    assert what(Answer(call, 200, "done")) == []


def test_no_answer() -> None:
    call = Call("test", "/generate", {})
    assert what(Answer(call, fault="ReadError: ")) == ["every request is answered"]
    assert what(Answer(call)) == ["every request is answered"]
    assert what(Answer(call, left=True)) == []


def part(ids: list[int], reason: str | None = None) -> dict[str, Any]:
    return final(ids, finish_reason=None if reason is None else {"type": reason})


def test_streams() -> None:
    good = [part([1]), part([1, 2]), part([1, 2, 3], "stop")]
    assert what(answer(good, stream=True, batch=1)) == []
    assert what(answer(good[:2], stream=True)) == ["a stream ends with a finish reason"]
    assert "no event after the finish" in what(answer([*good, good[-1]], stream=True))
    assert "streams only grow" in what(answer([part([2]), *good], stream=True))


def chat_events(*said: str, after: str = "") -> list[dict[str, Any]]:
    def event(text: str, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
        return {"choices": [choice]}

    return [*map(event, said), event("", "stop"), *([event(after)] if after else [])]


def test_chat_streams() -> None:
    path = "/v1/chat/completions"
    assert what(answer(chat_events("a", "b"), stream=True, path=path)) == []
    late = answer(chat_events("a", after="b"), stream=True, path=path)
    assert what(late) == ["no text after the finish"]
    cut = answer(chat_events("a")[:1], stream=True, path=path)
    assert what(cut) == ["a stream ends with a finish reason"]


def test_twins_must_say_the_same() -> None:
    one = answer(final([1, 2]), twin="a")
    same = answer([part([1]), part([1, 2], "stop")], stream=True, twin="a")
    other = answer([part([1]), part([1, 3], "stop")], stream=True, twin="a")
    assert of_twins([one, same]) == []
    assert [v.what for v in of_twins([one, other])] == ["a stream's text is the answer's"]


TRACE = 'Traceback (most recent call last):\n  File "{}", line 3, in f\n    x()\nValueError: no\n'


def test_the_log() -> None:
    assert of_log("[12:00] a request\n" + TRACE.format("/lib/sglang/srt/http.py")) == []
    ours = of_log(
        "before\n" + TRACE.format("/lib/sglang_multiverse/patches/answers/stream.py") + "after"
    )
    assert [v.what for v in ours] == ["no traceback of ours"]
    assert "ValueError: no" in ours[0].detail
    assert [v.what for v in of_log("token_to_kv_pool memory leak detected")] == [
        "the log is silent"
    ]


def test_a_server_at_rest() -> None:
    state = {"used": 0, "logprob": -0.5, "health": 200}

    def say(path: str, body: Any) -> tuple[int, Any]:
        if path.startswith("/v1/loads"):
            load = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": state["used"]}
            return 200, {"loads": [load]}
        if path.startswith("/health"):
            return state["health"], {}
        if path == "/generate":
            return 200, final([4], output_token_logprobs=[[state["logprob"], 4, None]])
        return 200, {}

    with serving(say) as url:
        wire = Wire(url)
        probe = Probe(wire, {"input_ids": [1]})
        assert at_rest(wire, probe) == []
        state |= {"used": 5, "logprob": -0.6, "health": 503}
        found = [v.what for v in at_rest(wire, probe)]
    assert found == [
        "nothing holds KV at rest",
        "the server is healthy",
        "the server is healthy",
        "the probe's logprobs stay",
    ]
