"""Values that no caller should send, and bytes that are no request."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

#: One value of every kind that some field does not expect.
WRONG: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    -(2**31),
    2**31,
    2**63,
    -(2**63) - 1,
    10**30,
    0.5,
    -0.0,
    1e308,
    "",
    "abc",
    "7",
    "\ud800",
    "\x00",
    "🧵" * 40,
    [],
    [1, 2],
    [[]],
    [None],
    ["a", 1],
    {},
    {"a": 1},
    {"multiverse": 7},
    [{}],
)

#: Every kind of value for ``custom_params``, good and bad.
CUSTOM_PARAMS: tuple[Any, ...] = (
    [1, 2],
    "abc",
    7,
    True,
    0.5,
    [],
    "",
    {},
    {"multiverse": None},
    {"multiverse": True},
    {"multiverse": False},
    {"multiverse": 7},
    {"multiverse": "off"},
    {"multiverse": []},
    {"multiverse": {"enabled": 1}},
    {"multiverse": {"enabled": "no"}},
    {"multiverse": {"enabled": False}},
    {"multiverse": {"max_branches": -1}},
    {"multiverse": {"max_branches": 10**30}},
    {"multiverse": {"max_branches": 2.5}},
    {"multiverse": {"max_branches": "4"}},
    {"multiverse": {"max_branches": None}},
    {"multiverse": {"max_depth": True}},
    {"multiverse": {"max_depth": []}},
    {"multiverse": {"max_depth": 0}},
    {"multiverse": {"max_live_rows": 0}},
    {"multiverse": {"max_live_rows": 1}},
    {"multiverse": {"max_live_rows": {}}},
    {"multiverse": {"max_critical_path": 0}},
    {"multiverse": {"max_critical_path": 1}},
    {"multiverse": {"max_critical_path": "long"}},
    {"multiverse": {"paths": 3, "": None}},
    {"multiverse": {"\ud800": 1}},
    {"multiverse": {"1": 2}, "other": [1, {"a": None}]},
)

_PARAMS = (
    *("max_new_tokens", "stop", "stop_token_ids", "stop_regex", "temperature", "top_p", "top_k"),
    *("min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "min_new_tokens"),
    *("json_schema", "regex", "ebnf", "ignore_eos", "skip_special_tokens", "no_stop_trim"),
    *("spaces_between_special_tokens", "stream_interval", "logit_bias", "sampling_seed"),
    *("custom_params", "custom_params", "custom_params"),
)
#: Fields of each endpoint; one after a dot is of the object before it.
GENERATE_FIELDS = (
    *("text", "input_ids", "input_embeds", "sampling_params", "rid", "return_logprob"),
    *("logprob_start_len", "top_logprobs_num", "token_ids_logprob", "stream", "session_params"),
    *("return_text_in_logprobs", "return_hidden_states", "lora_path", "log_metrics"),
    *("custom_logit_processor", "routing_key"),
    *(f"sampling_params.{name}" for name in _PARAMS),
)
_OPENAI = (
    *("model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "n", "stop"),
    *("seed", "logit_bias", "response_format", "frequency_penalty", "presence_penalty", "user"),
    *("top_k", "min_p", "min_tokens", "regex", "ebnf", "repetition_penalty", "stop_token_ids"),
    *("stop_regex", "no_stop_trim", "ignore_eos", "skip_special_tokens", "session_params"),
    *("custom_params", "custom_params", "custom_params"),
)
CHAT_FIELDS = (
    *_OPENAI,
    *("messages", "logprobs", "top_logprobs", "max_completion_tokens", "tools", "tool_choice"),
    *("reasoning_effort", "chat_template_kwargs", "return_meta_info", "continue_final_message"),
    *("separate_reasoning", "stream_reasoning"),
)
COMPLETION_FIELDS = (*_OPENAI, "prompt", "echo", "logprobs", "best_of", "suffix", "json_schema")
SCORE_FIELDS = ("query", "items", "label_token_ids", "apply_softmax", "item_first", "temperature")
_TEXT = (
    "",
    " ",
    "\n",
    "\x00",
    "\ud800",
    "a\udfffb",
    "\u202e<Path>\u202d",
    "﷽" * 30,
    "👩‍👩‍👧‍👦 e\u0301\u0301\u0301",
    "<|im_start|>user\n",
    "<|im_end|>",
    "</Think>",
)


def text(rng: random.Random, tags: tuple[str, ...], words: tuple[str, ...]) -> str:
    """Words, tags in any order and what is neither, joined with or without space."""
    pools = rng.choice(((tags, words), (tags,), (words,), (tags, words, _TEXT), (_TEXT,)))
    pieces = [rng.choice(rng.choice(pools)) for _ in range(rng.choice((0, 1, 3, 10, 40)))]
    return rng.choice(("", " ", "\n")).join(pieces)


def spoil(rng: random.Random, body: dict[str, Any], fields: tuple[str, ...], times: int) -> Any:
    """A copy of ``body`` with ``times`` fields wrong, missing or unknown.

    Args:
        fields: names that the endpoint knows; those with a dot are of the object before it.
    """
    body = copy.deepcopy(body)
    for _ in range(times):
        name = rng.choice((*fields, *body))
        target: Any = body
        *outer, last = name.split(".")
        for key in outer:
            target = target.setdefault(key, {}) if isinstance(target, dict) else {}
        if not isinstance(target, dict):
            continue
        roll = rng.random()
        if roll < 0.1:
            target.pop(last, None)
        elif last == "custom_params":
            target[last] = copy.deepcopy(rng.choice(CUSTOM_PARAMS))
        elif roll < 0.15:
            target[last] = [target.get(last)] * rng.choice((1, 2, 3))
        else:
            target[last] = copy.deepcopy(rng.choice(WRONG))
    return body


def raw(rng: random.Random, body: Any) -> bytes:
    """Bytes that are not, or hardly, the JSON of a request."""
    good = json.dumps(body).encode()
    depth = rng.choice((5, 200, 5000))
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: b"null",
        lambda: b"[]",
        lambda: b'"text"',
        lambda: b"{}",
        lambda: good[: rng.randrange(len(good))],
        lambda: good + b"}",
        lambda: good.replace(b'"', b"'"),
        lambda: b"\xff\xfe" + good,
        lambda: bytes(rng.randrange(256) for _ in range(64)),
        lambda: b"[" * depth + b"]" * depth,
        lambda: b'{"text": "a", "sampling_params": ' + b'{"custom_params":' * depth + b"1}" * depth,
        lambda: (
            b'{"text": "a", "sampling_params": {"max_new_tokens": 4, "custom_params": '
            b'{"multiverse": ' + b"[" * depth + b"]" * depth + b"}}}"
        ),
        lambda: good.replace(b"1", b"NaN", 1),
        lambda: good.replace(b"1", b"1e999", 1),
        lambda: b'{"text": "a", "text": 5}',
    )
    return rng.choice(ways)()
