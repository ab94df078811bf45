"""Each request field does on a server what the compatibility table says of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sglang_multiverse.patches.compatibility import REFUSED, REQUESTS, WORKS
from sglang_multiverse.tiny import task

from .client import Client, ServerError
from .test_answers import prompt_ids

pytestmark = pytest.mark.weights("tiny")

_ANYTHING = "(.|\\n)*"
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
_TOOL = {"type": "function", "function": {"name": "add", "parameters": _SCHEMA}}

#: Body → field → a value that changes something, or that SGLang takes and does not read here.
EXAMPLES: dict[str, dict[str, Any]] = {
    "generate": {
        "rid": "one-of-a-kind",
        "log_metrics": False,
        "no_logs": True,
        "custom_labels": {"who": "test"},
        "routing_key": "key",
        "conversation_id": "talk",
        "routed_dp_rank": 0,
        "data_parallel_rank": 0,
        "return_logprob": True,
        "top_logprobs_num": 2,
        "token_ids_logprob": [5, 6],
        "return_text_in_logprobs": True,
        "return_prompt_token_ids": True,
        "logprob_start_len": 0,
        "extra_key": "tenant",
        "cache_salt": "salt",
        "priority": 3,
        "bootstrap_host": "localhost",
        "bootstrap_port": 8998,
        "bootstrap_room": 7,
        "session_id": "talk",
        "return_sampling_mask": True,
        "sampling_logprobs_mode": "support",
        "lora_path": "adapter",
        "watermark": {"enabled": True},
        "max_thinking_tokens": 50,
    },
    "sampling": {
        "max_new_tokens": 1000,
        "min_new_tokens": 40,
        "ignore_eos": True,
        "stop": ["nothing like this"],
        "stop_token_ids": [1],
        "stop_regex": ["no+thing"],
        "no_stop_trim": True,
        "temperature": 0.01,
        "top_p": 0.9,
        "top_k": 1,
        "min_p": 0.5,
        "logit_bias": {"5": 0.01},
        "frequency_penalty": 0.001,
        "presence_penalty": 0.001,
        "repetition_penalty": 1.001,
        "sampling_seed": 11,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "stream_interval": 4,
        "custom_params": {"multiverse": {"max_branches": 8}},
        "json_schema": '{"type": "object"}',
        "regex": _ANYTHING,
        "ebnf": 'root ::= "a" | "b"',
        "structural_tag": '{"type": "structural_tag", "structures": [{"begin": "<f>", "schema": '
        '{"type": "object"}, "end": "</f>"}], "triggers": ["<f>"]}',
        "beam_width": 2,
        "watermark": {"enabled": True},
    },
    "chat": {
        "rid": "another-of-a-kind",
        "user": "somebody",
        "max_completion_tokens": 1000,
        "min_tokens": 40,
        "stop": ["nothing like this"],
        "stop_token_ids": [1],
        "stop_regex": ["no+thing"],
        "top_p": 0.9,
        "top_k": 1,
        "min_p": 0.5,
        "logit_bias": {"5": 0.01},
        "frequency_penalty": 0.001,
        "presence_penalty": 0.001,
        "repetition_penalty": 1.001,
        "seed": 11,
        "skip_special_tokens": False,
        "no_stop_trim": True,
        "logprobs": True,
        "return_token_ids": True,
        "return_prompt_token_ids": True,
        "return_cached_tokens_details": True,
        "extra_key": "tenant",
        "cache_salt": "salt",
        "priority": 3,
        "separate_reasoning": False,
        "tools": [_TOOL],
        "custom_params": {"multiverse": {"max_branches": 8}},
        "response_format": {"type": "json_object"},
        "regex": _ANYTHING,
        "ebnf": 'root ::= "a" | "b"',
        "session_id": "talk",
        "lora_path": "adapter",
        "watermark": {"enabled": True},
    },
    "completions": {
        "lora_path": "adapter",
        "watermark": {"enabled": True},
    },
}

#: What a field needs besides itself.
WITH: dict[str, dict[str, Any]] = {
    "top_logprobs_num": {"return_logprob": True},
    "token_ids_logprob": {"return_logprob": True},
    "return_text_in_logprobs": {"return_logprob": True},
    "logprob_start_len": {"return_logprob": True},
    "return_sampling_mask": {"return_logprob": True},
    "sampling_logprobs_mode": {"return_logprob": True, "return_sampling_mask": True},
}

#: Fields the table says decode sequentially or are refused, which need more than this server.
ELSEWHERE = {
    "a multimodal model": "images, audio, video",
    "flags of the server": "values for every token",
    "an open session": "sessions",
    "a server without prefix cache": "input embeddings",
    "another endpoint": "scoring",
}


def outcome_of(body: str, field: str) -> str:
    (found,) = (entry.outcome for entry in REQUESTS if field in getattr(entry, body).split())
    return found


def cases(*bodies: str) -> list[Any]:
    return [
        pytest.param(body, field, id=f"{body}-{field}")
        for body in bodies
        for field in EXAMPLES[body]
    ]


@pytest.fixture(scope="module")
def question() -> task.Problem:
    return next(itertools.islice(task.generate(77, "test"), 1))


def ask(client: Client, tokenizer: Any, question: task.Problem, body: str, field: str) -> Any:
    """``meta_info`` of the answer to a question on which the tiny model forks."""
    value = EXAMPLES[body][field]
    further = {field: value, **WITH.get(field, {})}
    if body == "generate":
        request = {
            "input_ids": prompt_ids(tokenizer, question),
            "sampling_params": {"temperature": 0, "max_new_tokens": 400},
            **further,
        }
        return client.server.request("/generate", request)["meta_info"]
    if body == "sampling":
        request = {
            "input_ids": prompt_ids(tokenizer, question),
            "sampling_params": {"temperature": 0, "max_new_tokens": 400, **further},
        }
        return client.server.request("/generate", request)["meta_info"]
    request = {"model": "default", "temperature": 0, "max_tokens": 400, **further}
    if body == "chat":
        request["messages"] = [{"role": "user", "content": task.prompt(question, "parallel")}]
        request["return_meta_info"] = True
        answer = client.server.request("/v1/chat/completions", request)
        return answer["choices"][0]["meta_info"]
    request["prompt"] = prompt_ids(tokenizer, question)
    return client.server.request("/v1/completions", request)


@pytest.mark.parametrize(("body", "field"), cases("generate", "sampling", "chat", "completions"))
def test_the_field_does_what_the_table_says(
    overlap: Client, tokenizer: Any, question: task.Problem, body: str, field: str
) -> None:
    outcome = outcome_of(body, field)
    if outcome == REFUSED:
        with pytest.raises(ServerError, match="400"):
            ask(overlap, tokenizer, question, body, field)
        return
    forks = ask(overlap, tokenizer, question, body, field).get("multiverse_forks", 0)
    assert forks > 0 if outcome == WORKS else forks == 0


def test_every_field_that_is_not_like_stock_is_shown_or_needs_more() -> None:
    for entry in REQUESTS:
        if entry.outcome == WORKS or entry.topic in ELSEWHERE.values():
            continue
        for body in ("generate", "sampling", "chat"):
            fields = set(getattr(entry, body).split()) - {"ebnf_full_assistant"}
            assert fields <= set(EXAMPLES[body]), entry.topic


def test_several_answers_fork_each(overlap: Client, tokenizer: Any, question: task.Problem) -> None:
    answers: Any = overlap.generate(prompt_ids(tokenizer, question), n=2)
    assert [answer["meta_info"]["multiverse_forks"] > 0 for answer in answers] == [True, True]


def test_a_request_in_a_session_does_not_fork(
    overlap: Client, tokenizer: Any, question: task.Problem
) -> None:
    session = overlap.server.request("/open_session", {"capacity_of_str_len": 4000})
    request = {
        "input_ids": prompt_ids(tokenizer, question),
        "sampling_params": {"temperature": 0, "max_new_tokens": 60},
        "session_params": {"id": session},
    }
    meta = overlap.server.request("/generate", request)["meta_info"]
    assert meta.get("multiverse_forks", 0) == 0
    overlap.server.request("/close_session", {"session_id": session}, raw=True)
