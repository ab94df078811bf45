"""Answers that people parse, over HTTP: the thought, its tokens, grammars, tool calls, tags."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_multiverse.dialect import MULTIVERSE, Dialect
from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.task import generate, prompt

from .client import Client, ServerError
from .conftest import CHECKS, FLAGS
from .script import Forced

pytestmark = pytest.mark.weights("tiny")

QUESTION = "Let A = 1+2, B = 3-1. Which is largest, A or B?"


def block(*paths: str, names: str = "AB") -> str:
    outlines = "".join(
        f"<Outline>\n{i + 1}: Find {names[i]}\n</Outline>\n" for i in range(len(paths))
    )
    bodies = "".join(f"<Path>\n{i + 1}: {path}\n</Path>\n" for i, path in enumerate(paths))
    return (
        f"<Parallel>\n<Goal>\n{outlines}</Goal>\n{bodies}"
        "<Conclusion>\nHere is largest\n</Conclusion>\n</Parallel>\n"
    )


INNER = block("ones: 1", "tens: 2", names="CD").replace("1: ones", "1.1: ones")
INNER = INNER.replace("2: tens", "1.2: tens").replace("1: Find C", "1.1: Find C")
INNER = INNER.replace("2: Find D", "1.2: Find D")
THOUGHT = (
    "\nLet's think in parallel.\n"
    + block("So A is 3", "So B is 2, so")
    + "ones, and\n"
    + block(f"So {INNER}A is", "is 3")
)
TEXT = f"<Think>{THOUGHT}</Think>\n\nAnswer: A = 3"
FORKS = 3
SCHEMA = {
    "type": "object",
    "properties": {
        "largest": {"enum": ["A", "B"]},
        "value": {"enum": [2, 3, 17]},
    },
    "required": ["largest", "value"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def parsed() -> Iterator[Client]:
    """Parsers on, overlap on, and a pool that a dozen of these answers overfill."""
    flags = [
        *FLAGS,
        *("--reasoning-parser", "multiverse", "--tool-call-parser", "qwen25"),
        *("--max-total-tokens", "2200", "--schedule-conservativeness", "0.02"),
        "--constrained-json-disable-any-whitespace",
    ]
    with Server(MODEL_DIR, flags=flags, env=CHECKS) as server:
        client = Client(server)
        yield client
        client.assert_sound()


class Chat:
    """Asks ``/v1/chat/completions`` for an answer decided by the test."""

    def __init__(self, client: Client, tokenizer: Any):
        self.client = client
        self.tokenizer = tokenizer

    def body(self, text: str, *, free: bool = False, **changes: Any) -> dict[str, Any]:
        """``free`` lets the model go on after ``text``, with any token the grammar allows."""
        messages = changes.pop("messages", [{"role": "user", "content": QUESTION}])
        tools = changes.get("tools")
        rendered = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, tools=tools
        )
        script = self.tokenizer.encode(rendered + text, add_special_tokens=False)
        custom = {"script": script, "eos": self.tokenizer.eos_token_id}
        if free:
            custom |= {"then": True, "words": list(range(len(self.tokenizer)))}
        return {
            "model": "tiny",
            "messages": messages,
            "temperature": 0,
            "max_tokens": 700,
            "return_meta_info": True,
            "custom_logit_processor": Forced.to_str(),
            "custom_params": custom | changes.pop("custom_params", {}),
            **changes,
        }

    def ask(self, text: str, **changes: Any) -> Any:
        answer = self.client.server.request("/v1/chat/completions", self.body(text, **changes))
        (choice,) = answer["choices"]
        return choice, answer["usage"]

    def stream(self, text: str, **changes: Any) -> dict[str, Any]:
        """The parts of a streamed answer put together, and its last usage."""
        body = self.body(text, **changes)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        del body["return_meta_info"]  # not with streaming
        out: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": [], "pieces": 0}
        for event in self.client.server.stream("/v1/chat/completions", body):
            out["usage"] = event.get("usage") or out.get("usage")
            for choice in event["choices"]:
                delta = choice["delta"]
                out["content"] += delta.get("content") or ""
                out["reasoning_content"] += delta.get("reasoning_content") or ""
                out["pieces"] += bool(delta.get("reasoning_content"))
                for one in delta.get("tool_calls") or ():
                    out["calls"].append((one["function"]["name"], one["function"]["arguments"]))
                out["finish_reason"] = choice.get("finish_reason") or out.get("finish_reason")
        return out

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module")
def chat(parsed: Client, tokenizer: Any) -> Chat:
    return Chat(parsed, tokenizer)


def reasoning_tokens(usage: dict[str, Any]) -> int:
    details = usage.get("completion_tokens_details")
    assert usage["reasoning_tokens"] == (details["reasoning_tokens"] if details else 0)
    return int(usage["reasoning_tokens"])


def test_the_thought_is_reasoning_content(chat: Chat) -> None:
    choice, usage = chat.ask(TEXT)
    message = choice["message"]
    assert choice["meta_info"]["multiverse_forks"] == FORKS
    assert message["reasoning_content"] == THOUGHT
    assert message["content"] == "\n\nAnswer: A = 3"
    assert usage["completion_tokens"] == chat.count(TEXT) + 1
    assert reasoning_tokens(usage) == chat.count(f"<Think>{THOUGHT}</Think>")
    again = chat.stream(TEXT)
    assert again["reasoning_content"] == THOUGHT
    assert again["content"] == message["content"]
    assert again["pieces"] > 10
    assert again["usage"] == usage


def test_it_is_not_split_where_the_request_says_so(chat: Chat) -> None:
    choice, usage = chat.ask(TEXT, separate_reasoning=False)
    assert choice["message"]["content"] == TEXT
    assert choice["message"].get("reasoning_content") is None
    assert reasoning_tokens(usage) == chat.count(f"<Think>{THOUGHT}</Think>")
    assert chat.stream(TEXT, separate_reasoning=False)["content"] == TEXT


def test_a_thought_may_be_held_back(chat: Chat) -> None:
    again = chat.stream(TEXT, stream_reasoning=False)
    assert again["pieces"] == 1
    assert again["reasoning_content"] == THOUGHT


def test_an_answer_without_a_thought_has_none(chat: Chat) -> None:
    text = block("So A is 3", "So B is 2") + "Answer: A = 3"
    choice, usage = chat.ask(text)
    assert choice["message"].get("reasoning_content") is None
    assert choice["message"]["content"] == text
    assert choice["meta_info"]["multiverse_forks"] == 1
    assert reasoning_tokens(usage) == 0
    assert chat.stream(text)["content"] == text


def test_a_cut_answer_is_reasoning_alone(chat: Chat) -> None:
    """Cut anywhere in the thought, streamed or not: every token of it is a reasoning token."""
    whole = chat.count(f"<Think>{THOUGHT}")
    for limit in range(5, whole, whole // 6):
        choice, usage = chat.ask(TEXT, max_tokens=limit)
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] == ""
        assert 0 < usage["completion_tokens"] <= limit
        assert reasoning_tokens(usage) == usage["completion_tokens"]
        again = chat.stream(TEXT, max_tokens=limit)
        assert again["content"] == ""
        assert again["reasoning_content"] == choice["message"]["reasoning_content"]
        assert again["usage"] == usage


CONSTRAINED: dict[str, tuple[dict[str, Any], Any]] = {
    "json_schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            }
        },
        lambda text: set(json.loads(text)) == {"largest", "value"},
    ),
    "regex": ({"regex": "(A|B) = [0-9]{1,4}"}, lambda text: text[1:4] == " = " and len(text) < 9),
    "ebnf": ({"ebnf": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
}


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_a_grammar_constrains_what_follows_the_thought(chat: Chat, kind: str) -> None:
    asked, fits = CONSTRAINED[kind]
    thought = f"<Think>{THOUGHT}</Think>"
    choice, usage = chat.ask(thought, free=True, **asked)
    content = choice["message"]["content"]
    assert choice["meta_info"]["multiverse_forks"] == FORKS
    assert choice["message"]["reasoning_content"] == THOUGHT
    assert choice["finish_reason"] == "stop"
    assert fits(content), content
    assert reasoning_tokens(usage) == chat.count(thought)
    again = chat.stream(thought, free=True, **asked)
    assert (again["reasoning_content"], again["content"]) == (THOUGHT, content)
    assert again["usage"] == usage


def test_without_a_thought_the_grammar_begins_at_once(chat: Chat) -> None:
    asked, fits = CONSTRAINED["json_schema"]
    body = chat.body("", free=True, **asked)
    think = chat.tokenizer.convert_tokens_to_ids(MULTIVERSE.tags[0])
    body["custom_params"]["words"].remove(think)
    answer = chat.client.server.request("/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    assert message.get("reasoning_content") is None
    assert fits(message["content"])
    assert reasoning_tokens(answer["usage"]) == 0


def test_constrained_answers_survive_retraction(chat: Chat) -> None:
    asked, _ = CONSTRAINED["json_schema"]
    thought = f"<Think>{THOUGHT}</Think>"
    alone, usage = chat.ask(thought, free=True, **asked)
    answers = chat.client.at_once(
        [lambda: chat.ask(thought, free=True, **asked)] * 16 + [lambda: chat.ask(TEXT)] * 4,
    )
    for choice, used in answers[:16]:
        assert choice["message"] == alone["message"]
        assert reasoning_tokens(used) == reasoning_tokens(usage)
    for choice, used in answers[16:]:
        assert choice["message"]["reasoning_content"] == THOUGHT
        assert reasoning_tokens(used) == chat.count(thought)
    retractions = sum(choice["meta_info"]["num_retractions"] for choice, _ in answers)
    print(f"\nretractions: {retractions}")
    assert retractions > 0
    chat.client.assert_sound()


def test_a_follow_up_turn_is_constrained_too(chat: Chat) -> None:
    asked, fits = CONSTRAINED["json_schema"]
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "Again."},
    ]
    thought = f"<Think>\n{block('So A is 3', 'is 2')}</Think>"
    choice, _ = chat.ask(thought, free=True, messages=turns, **asked)
    assert choice["meta_info"]["multiverse_forks"] == 1
    assert fits(choice["message"]["content"])


def test_a_grammar_of_the_whole_answer_is_decoded_sequentially(
    parsed: Client, tokenizer: Any
) -> None:
    """``/generate`` says whether a grammar waits: ``require_reasoning``, false by default."""
    prompt_ids = tokenizer.encode("Let A = 1+2.\n")
    words = list(range(len(tokenizer)))
    custom = {"script": prompt_ids, "eos": tokenizer.eos_token_id, "then": True, "words": words}
    params = {"temperature": 0, "max_new_tokens": 600, "regex": "[0-9]{3}"}
    params["custom_params"] = custom
    request = {
        "input_ids": prompt_ids,
        "sampling_params": params,
        "custom_logit_processor": Forced.to_str(),
    }
    answer = parsed.server.request("/generate", request)
    assert answer["text"].isdigit()
    assert "multiverse_forks" not in answer["meta_info"]
    script = tokenizer.encode(f"Let A = 1+2.\n<Think>{THOUGHT}</Think>")
    request["sampling_params"]["custom_params"] = custom | {"script": script}
    answer = parsed.server.request("/generate", {**request, "require_reasoning": True})
    assert answer["meta_info"]["multiverse_forks"] == FORKS
    assert answer["text"].startswith("<Think>")
    assert answer["text"].rpartition("</Think>")[2].isdigit()


# Tool calls.

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"of": {"enum": ["A", "B"]}},
                "required": ["of"],
                "additionalProperties": False,
            },
            "strict": name == "look",
        },
    }
    for name in ("look", "find")
]


def call(name: str, of: str) -> str:
    body = json.dumps({"name": name, "arguments": {"of": of}})
    return f"<tool_call>\n{body}\n</tool_call>"


def test_a_call_per_path_keeps_all_text(chat: Chat) -> None:
    tools = [TOOLS[1]]
    first, second = call("find", "A"), call("find", "B")
    text = block(f"so {first}", f"and {second} ones") + f"Here {first} is 3"
    plain = text.replace(first, "").replace(second, "")
    choice, usage = chat.ask(text, tools=tools)
    message = choice["message"]
    assert choice["meta_info"]["multiverse_forks"] == 1
    assert message["content"] == plain
    found = [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
    assert found == [("find", json.dumps({"of": of})) for of in "ABA"]
    assert choice["finish_reason"] == "tool_calls"
    again = chat.stream(text, tools=tools)
    assert (again["content"], again["calls"]) == (plain, found)
    assert again["finish_reason"] == "tool_calls"
    assert again["usage"] == usage


def test_calls_in_the_thought_stay_there(chat: Chat) -> None:
    made = call("find", "A")
    thought = f"\n{block(f'so {made}', 'is 2')}"
    text = f"<Think>{thought}</Think>\n\nSo {call('find', 'B')}"
    choice, _ = chat.ask(text, tools=[TOOLS[1]])
    assert choice["message"]["reasoning_content"] == thought
    assert choice["message"]["content"] == "\n\nSo "
    (one,) = choice["message"]["tool_calls"]
    assert json.loads(one["function"]["arguments"]) == {"of": "B"}
    again = chat.stream(text, tools=[TOOLS[1]])
    assert again["reasoning_content"] == thought
    assert again["content"] == "\n\nSo "
    assert [name for name, _ in again["calls"]] == ["find"]


def test_a_required_call_follows_a_thought_that_forks(chat: Chat) -> None:
    """The calls are forced, and so checked: a token that the grammar does not allow is an error."""
    thought = f"<Think>{THOUGHT}</Think>"
    asked = {"tools": [TOOLS[0]], "tool_choice": "required"}
    made = '<tool_call>\n{"name":"look", "arguments":{"of":"A"}}\n</tool_call>'
    choice, usage = chat.ask(thought + made, **asked)
    assert choice["meta_info"]["multiverse_forks"] == FORKS
    message = choice["message"]
    assert (message["reasoning_content"], message["content"]) == (THOUGHT, "")
    (one,) = message["tool_calls"]
    assert one["function"] == {"name": "look", "arguments": '{"of": "A"}'}
    assert reasoning_tokens(usage) == chat.count(thought)
    again = chat.stream(thought + made, **asked)
    assert again["reasoning_content"] == THOUGHT
    assert again["calls"] == [("look", '{"of": "A"}')]
    for wrong in ("Answer: A", made.replace("A", "C"), made.replace("look", "find")):
        with pytest.raises(ServerError, match="Tokens not accepted"):
            chat.ask(thought + wrong, **asked)
    chat.client.assert_sound()


# Tags as text.


@pytest.mark.parametrize("enabled", [True, False], ids=["forks", "sequential"])
def test_tags_are_text_and_other_special_tokens_follow_the_request(
    parsed: Client, tokenizer: Any, enabled: bool
) -> None:
    text = f"<Think>\n{block('So A is<|im_start|>', 'is 3')}</Think>\n<|endoftext|>so"
    prompt_ids = tokenizer.encode("Let A = 1+2.\n")
    script = prompt_ids + tokenizer.encode(text)
    custom = {"script": script, "eos": tokenizer.eos_token_id, "multiverse": enabled}
    for skip in (None, True, False):
        params = {} if skip is None else {"skip_special_tokens": skip}
        answer = parsed.force(prompt_ids, custom, **params)
        hidden = text.replace("<|im_start|>", "").replace("<|endoftext|>", "")
        assert answer["text"] == (text if skip is False else hidden)
        assert answer["output_ids"] == [*script[len(prompt_ids) :], tokenizer.eos_token_id]
        assert ("multiverse_forks" in answer["meta_info"]) is enabled


def test_plain_answers_are_the_same_text_with_and_without_the_plugin(
    stock: Client, overlap: Client, texts: Any, dialect: Dialect
) -> None:
    """Thoughts that never fork, and random prompts; bodies with nothing but the prompt."""
    rng = random.Random(5)
    asked: list[dict[str, Any]] = []
    for problem in itertools.islice(generate(5, "test"), 12):
        question = f"<|im_start|>user\n{prompt(problem, 'sequential')}<|im_end|>\n"
        asked.append({"text": question + "<|im_start|>assistant\n"})
    for _ in range(12):
        asked.append({"input_ids": [rng.choice(texts.words) for _ in range(9)]})

    def answers(client: Client) -> list[str]:
        client.forget()
        bodies = [{**one, "sampling_params": {"temperature": 0}} for one in asked]
        return [client.server.request("/generate", body)["text"] for body in bodies]

    plain = answers(stock)
    assert sum("<Think>" in text for text in plain) >= 10
    assert answers(overlap) == plain
