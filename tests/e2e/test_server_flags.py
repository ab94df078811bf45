"""Flags that change batches, queue, cache and streams: the compatibility table says they work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MODEL_DIR, task

from .client import Client
from .conftest import CHECKS, FLAGS
from .test_answers import ask_with_logprobs, differences, prompt_ids
from .test_events import EVENTS, put_together
from .test_fidelity import TOLERANCE

pytestmark = pytest.mark.weights("tiny")

_SERVERS = {
    "batches, queue, eviction, streams": [
        *("--chunked-prefill-size", "32"),
        *("--max-prefill-tokens", "64"),
        *("--prefill-max-requests", "2"),
        *("--max-running-requests", "6"),
        *("--max-queued-requests", "64"),
        *("--scheduler-recv-interval", "2"),
        *("--num-continuous-decode-steps", "2"),
        *("--schedule-policy", "lpm"),
        *("--radix-eviction-policy", "lfu"),
        *("--stream-interval", "3"),
        "--incremental-streaming-output",
        *("--batch-notify-size", "2"),
        "--stream-response-default-include-usage",
        *("--detokenizer-worker-num", "2"),
    ],
    "no prefix cache": ["--disable-radix-cache"],
}


@pytest.fixture(
    scope="module",
    params=[
        "batches, queue, eviction, streams",
        pytest.param("no prefix cache", marks=pytest.mark.nightly),
    ],
)
def flagged(request: pytest.FixtureRequest) -> Iterator[Client]:
    flags = [*FLAGS, "--max-total-tokens", "6000", *_SERVERS[request.param]]
    with Server(MODEL_DIR, flags=flags, env=CHECKS) as server:
        client = Client(server)
        yield client
        client.assert_sound()


@pytest.fixture(scope="module")
def problems() -> list[task.Problem]:
    return list(itertools.islice(task.generate(78, "test"), 12))


def test_answers_fork_and_have_the_trainers_logprobs(
    flagged: Client,
    tokenizer: Any,
    dialect: Dialect,
    trainer_model: Any,
    problems: list[task.Problem],
) -> None:
    asked = ask_with_logprobs(flagged, tokenizer, problems)
    gaps, forks = differences(trainer_model, dialect, asked)
    assert forks >= 8
    assert float(gaps.abs().max()) <= TOLERANCE


def test_a_prompt_with_a_finished_block_goes_on(
    flagged: Client,
    tokenizer: Any,
    dialect: Dialect,
    trainer_model: Any,
    problems: list[task.Problem],
) -> None:
    """The prompt holds a finished block and is longer than a chunk of prefill."""
    question = prompt_ids(tokenizer, problems[0])
    first = flagged.generate(question)["output_ids"]
    cut = first.index(dialect[Tag.END_PARALLEL]) + 1
    prompt = [*question, *first[:cut]]
    second = flagged.generate(prompt, return_logprob=True)
    assert second["output_ids"] == first[cut:]
    gaps, _ = differences(trainer_model, dialect, [(prompt, second)])
    assert float(gaps.abs().max()) <= TOLERANCE


def test_a_stream_holds_the_whole_text(
    flagged: Client, tokenizer: Any, problems: list[task.Problem]
) -> None:
    ids = prompt_ids(tokenizer, problems[1])
    whole = flagged.generate(ids)
    events = flagged.stream(ids)
    if "--incremental-streaming-output" in flagged.server.command:
        text = "".join(event["text"] for event in events)
    else:
        text = events[-1]["text"]
    assert text == whole["text"]
    assert events[-1]["meta_info"]["multiverse_forks"] == whole["meta_info"]["multiverse_forks"] > 0


def test_events_are_whole(flagged: Client, tokenizer: Any, problems: list[task.Problem]) -> None:
    """Increments, three tokens a chunk, of which some are put into one."""
    asked = [prompt_ids(tokenizer, problem) for problem in problems[:6]]
    streams = flagged.at_once(
        (lambda ids=ids: flagged.stream(ids, custom_params=EVENTS)) for ids in asked
    )
    for chunks in streams:
        if "--incremental-streaming-output" in flagged.server.command:
            text = "".join(chunk["text"] for chunk in chunks)
            events = [e for chunk in chunks for e in chunk["meta_info"]["multiverse_events"]]
        else:
            text = chunks[-1]["text"]
            events = chunks[-1]["meta_info"]["multiverse_events"]
        assert put_together(events) == text
        assert [event["kind"] for event in events].count("end") == 1
