"""The provider against a transport that says what came."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, ModelOutput

from sglang_multiverse.evaluation.provider import Multiverse, read
from sglang_multiverse.evaluation.scorers import figures

ANSWER = {
    "id": "r1",
    "model": "m",
    "choices": [
        {
            "message": {"role": "assistant", "content": "<Think>x</Think>\n\nAnswer: 1"},
            "finish_reason": "stop",
            "meta_info": {"multiverse_forks": 2, "e2e_latency": 1.5},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5},
}


def ask(reply, config: GenerateConfig | None = None, **model):
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return reply

    api = Multiverse("m", transport=httpx.MockTransport(handle), **model)
    messages = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="1?")]
    output, call = asyncio.run(api.generate(messages, [], "auto", config or GenerateConfig()))
    assert isinstance(output, ModelOutput)
    return output, call, seen[0], api


def test_an_answer_with_all_that_the_server_says_of_it() -> None:
    config = GenerateConfig(
        temperature=0.0,
        max_tokens=7,
        seed=11,
        extra_body={"custom_params": {"multiverse": {"max_critical_path": 9}}},
    )
    output, call, request, _ = ask(
        httpx.Response(200, json=ANSWER), config, base_url="http://h:1/v1/", api_key="k"
    )
    assert str(request.url) == "http://h:1/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer k"
    body = json.loads(request.content)
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1?"},
        ],
        "return_meta_info": True,
        "separate_reasoning": False,
        "temperature": 0.0,
        "max_tokens": 7,
        "seed": 11,
        "custom_params": {"multiverse": {"max_critical_path": 9}},
    }
    assert output.completion.endswith("Answer: 1")
    assert output.stop_reason == "stop"
    assert output.metadata == {"multiverse_forks": 2, "e2e_latency": 1.5}
    assert output.usage is not None
    assert (output.usage.input_tokens, output.usage.output_tokens) == (3, 5)
    assert output.time is not None
    assert call.response == ANSWER


def test_the_key_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIVERSE_API_KEY", "k")
    _, _, request, _ = ask(httpx.Response(200, json=ANSWER))
    assert request.headers["authorization"] == "Bearer k"


@pytest.mark.parametrize("status", [400, 422])
def test_fields_of_our_own_are_left_out_where_the_server_refuses_them(status: int) -> None:
    seen: list[dict[str, object]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        if "return_meta_info" in seen[-1]:
            return httpx.Response(status, text="return_meta_info: extra fields not permitted")
        return httpx.Response(200, json=ANSWER)

    def ask_once(**extra: object) -> ModelOutput:
        config = GenerateConfig(seed=1, extra_body=extra or None)
        output, _ = asyncio.run(api.generate([ChatMessageUser(content="1?")], [], "auto", config))  # type: ignore[misc]
        assert isinstance(output, ModelOutput)
        return output

    api = Multiverse("m", transport=httpx.MockTransport(handle))
    bounded = {"custom_params": {"multiverse": {"max_critical_path": 9}}}
    assert str(ask_once(**bounded).error).startswith(f"HTTP {status}"), "a budget is not dropped"
    assert len(seen) == 1
    assert ask_once(custom_params={"multiverse": False}).completion.endswith("Answer: 1")
    assert ask_once().completion.endswith("Answer: 1")
    assert len(seen) == 4, "the second is not sent twice"
    assert set(seen[-1]) == {"model", "messages", "seed"}


def test_an_echo_of_the_request_does_not_lose_the_figures() -> None:
    """A refusal for another reason, that names our fields only as it quotes the request."""
    output, _, _, api = ask(httpx.Response(422, text='{"input": {"return_meta_info": true}}'))
    assert output.error
    assert not api._plain


@pytest.mark.parametrize(
    ("reason", "stop"),
    [("length", "max_tokens"), ("abort", "unknown"), (None, "unknown"), ("stop", "stop")],
)
def test_why_it_ended(reason, stop) -> None:
    choice = {**ANSWER["choices"][0], "finish_reason": reason}  # type: ignore[index]
    assert read({**ANSWER, "choices": [choice]}, 1.0).stop_reason == stop


def test_a_server_that_parts_thought_and_answer() -> None:
    message = {"content": "\n\nAnswer: 1", "reasoning_content": "x"}
    choice = {**ANSWER["choices"][0], "message": message}  # type: ignore[index]
    said = read({**ANSWER, "choices": [choice]}, 1.0).completion
    assert said == "<Think>x</Think>\n\nAnswer: 1"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_no_answer_and_no_failure(status: int) -> None:
    said = {"error": {"message": "too long"}}
    output, call, _, _ = ask(httpx.Response(status, json=said))
    assert output.error == f"HTTP {status}: too long"
    assert output.completion == ""
    assert call.error is None or call.error


@pytest.mark.parametrize(
    ("status", "again"), [(500, True), (503, True), (429, True), (404, False), (401, False)]
)
def test_what_is_sent_again(status: int, again: bool) -> None:
    api = Multiverse("m")
    with pytest.raises(httpx.HTTPStatusError) as error:
        ask(httpx.Response(status, text="no"))
    assert api.should_retry(error.value) is again
    assert api.is_auth_failure(error.value) is (status == 401)
    assert api.should_retry(httpx.ConnectError("gone"))
    assert not api.should_retry(ValueError("no completion"))


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [5]}, {"choices": [{}]}])
def test_an_answer_of_another_form_says_so(answer) -> None:
    with pytest.raises(ValueError, match="no chat completion"):
        read(answer, 1.0)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        Multiverse("m", colour="red")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "text", "text": "a"}, {"text": "b"}], "ab"),
        (None, ""),
        ("half \ud800", "half \ufffd"),
    ],
)
def test_content_of_every_form(content, said) -> None:
    choice = {**ANSWER["choices"][0], "message": {"content": content}}  # type: ignore[index]
    assert read({**ANSWER, "choices": [choice]}, 1.0).completion == said


def test_figures_that_are_none_are_left_out() -> None:
    odd = {
        "multiverse_forks": "two",
        "multiverse_critical_path_tokens": -5,
        "multiverse_net_parallelism": float("nan"),
        "multiverse_depth": True,
        "e2e_latency": float("inf"),
    }
    choice = {**ANSWER["choices"][0], "meta_info": odd}  # type: ignore[index]
    found = figures(read({**ANSWER, "choices": [choice], "usage": [1]}, 1.0))
    assert found == {
        "completion_tokens": 0,
        "critical_path_tokens": 0,
        "prompt_tokens": 0,
        "seconds": 1.0,
        "finish_reason": "stop",
    }
    listed = {**ANSWER["choices"][0], "meta_info": [1]}  # type: ignore[index]
    assert read({**ANSWER, "choices": [listed]}, 1.0).metadata == {}
