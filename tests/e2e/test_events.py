"""A stream that names its paths: put together it is the answer, and it comes as it happens."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import layout_of
from sglang_multiverse.structure import Block, parse
from sglang_multiverse.tiny import task

from .client import Client, ServerError
from .script import Forced
from .test_answers import prompt_ids
from .texts import Texts

pytestmark = pytest.mark.weights("random")

EVENTS: dict[str, Any] = {"multiverse": {"events": True}}
Events = list[dict[str, Any]]


def put_together(events: Events) -> str:
    """The canonical text, in the slow and obvious way."""
    parts: dict[str, list[Any]] = {"": []}
    for event in events:
        if event["kind"] == "text":
            parts[event["path"]].append(event["text"])
        elif event["kind"] == "fork":
            names = [one["path"] for one in event["paths"]]
            parts |= {name: [] for name in names}
            parts[event["path"]].append(names)

    def text(path: str) -> str:
        return "".join(
            part if isinstance(part, str) else "".join(map(text, part)) for part in parts[path]
        )

    return text("")


def positions(events: Events) -> dict[str, list[int]]:
    """Positions of each path's tokens, in order."""
    found: dict[str, list[int]] = {}
    for event in events:
        if event["kind"] == "text":
            run = range(event["position"], event["position"] + event["tokens"])
            found.setdefault(event["path"], []).extend(run)
    return found


def laid_out(ids: list[int], prompt_len: int, dialect: Dialect) -> dict[str, list[int]]:
    """The same from the finished text, by parser and layout."""
    trace = parse(ids, dialect)
    position = layout_of(trace).position
    owner = [""] * len(ids)

    def name(blocks: list[Block], prefix: str) -> None:
        for b, block in enumerate(blocks, 1):
            for p, path in enumerate(block.paths, 1):
                owner[path.start : path.end] = [f"{prefix}{b}.{p}"] * (path.end - path.start)
                name(path.blocks, f"{prefix}{b}.{p}.")

    name(trace.blocks, "")
    found: dict[str, list[int]] = {}
    for i in range(prompt_len, len(ids)):
        found.setdefault(owner[i], []).append(int(position[i]))
    return found


def told(client: Client, texts: Texts, seed: int, *, stream: bool = True, **body: Any) -> Any:
    script, prompt_len = texts.make(seed)
    custom = {"script": script, "eos": texts.eos, **EVENTS}
    ask = client.stream if stream else client.generate
    body = {"custom_logit_processor": Forced.to_str(), "max_new_tokens": len(script), **body}
    return ask(script[:prompt_len], custom_params=custom, **body)


def test_events_put_together_are_the_answer(server: Client, texts: Texts, dialect: Dialect) -> None:
    """Text, positions and paths of twelve texts written at once, nested ones among them."""
    seeds = range(500, 512)
    for seed, chunks in zip(
        seeds,
        server.at_once((lambda s=s: told(server, texts, s)) for s in seeds),
        strict=True,
    ):
        script, prompt_len = texts.make(seed)
        final = chunks[-1]
        events = final["meta_info"]["multiverse_events"]
        assert put_together(events) == final["text"]
        whole = [*script, texts.eos]
        assert final["output_ids"] == whole[prompt_len:]
        assert positions(events) == laid_out(whole, prompt_len, dialect)
        assert sum(e["tokens"] for e in events if e["kind"] == "text") == len(final["output_ids"])
        kinds = [event["kind"] for event in events]
        meta = final["meta_info"]
        assert kinds.count("fork") == kinds.count("join") == meta["multiverse_forks"]
        assert kinds.count("close") == meta["multiverse_paths"]
        assert kinds.count("end") == 1
        assert kinds[-1] == "end"
        assert events[-1]["finish_reason"] == "stop"
        assert events[-1]["figures"]["multiverse_forks"] == meta["multiverse_forks"]
        times = [event["t"] for event in events]
        assert times == sorted(times)
    server.assert_sound()


def test_all_paths_are_told_of_while_they_run(overlap: Client, texts: Texts) -> None:
    """Two paths of one block grow by turns, and each chunk tells as much as the steps so far."""
    script, prompt_len = texts.make(3)
    seen: list[Events] = [
        list(chunk["meta_info"]["multiverse_events"]) for chunk in told(overlap, texts, 3)
    ]
    for earlier, later in itertools.pairwise(seen):
        assert later[: len(earlier)] == earlier
    events = seen[-1]
    fork = next(i for i, event in enumerate(events) if event["kind"] == "fork")
    first, second, *_ = (one["path"] for one in events[fork]["paths"])
    join = next(i for i in range(fork, len(events)) if events[i]["kind"] == "join")
    order = [e["path"] for e in events[fork:join] if e["kind"] == "text"]
    turns = [path for path, _ in itertools.groupby(p for p in order if p in (first, second))]
    assert len(turns) > 4  # first, second, first, second, …
    # The second path is seen to grow before the first, which the text shows alone, has closed.
    closed = next(i for i, e in enumerate(events) if e["kind"] == "close" and e["path"] == first)
    early = next(chunk for chunk in seen if any(e["path"] == second for e in chunk))
    assert len(early) < closed
    assert prompt_len < len(script)


def test_one_answer_at_once_has_them_too(server: Client, texts: Texts) -> None:
    answer = told(server, texts, 4, stream=False)
    assert put_together(answer["meta_info"]["multiverse_events"]) == answer["text"]
    assert (
        "multiverse_events" not in server.generate(texts.words[:5], max_new_tokens=3)["meta_info"]
    )


@pytest.mark.parametrize("how", ["length", "stop", "abort", "sequential"])
def test_however_the_answer_ends(server: Client, texts: Texts, how: str) -> None:
    script, prompt_len = texts.make(6)
    custom = {"script": script, "eos": texts.eos, **EVENTS}
    body: dict[str, Any] = {"custom_logit_processor": Forced.to_str(), "custom_params": custom}
    if how == "length":
        body["max_new_tokens"] = (len(script) - prompt_len) // 2
    elif how == "stop":
        body["stop_token_ids"] = [script[prompt_len + (len(script) - prompt_len) * 2 // 3]]
        body["no_stop_trim"] = True
    elif how == "sequential":
        custom["multiverse"] = {"events": True, "enabled": False}
    rid = f"told-{time.monotonic_ns()}"
    chunks = []
    asked = _streamed(script[:prompt_len], {**body, "rid": rid})
    for chunk in server.server.stream("/generate", asked):
        chunks.append(chunk)
        if how == "abort" and len(chunks) == 12:
            server.server.request("/abort_request", {"rid": rid}, raw=True)
    final = chunks[-1]
    events = final["meta_info"]["multiverse_events"]
    assert [event["kind"] for event in events].count("end") == 1
    assert events[-1]["finish_reason"] == final["meta_info"]["finish_reason"]["type"]
    whole = put_together(events)
    # Behind a stop, paths had gone on: they were told of before the text was cut.
    assert whole.startswith(final["text"]) if how == "stop" else whole == final["text"]
    if how == "sequential":
        assert {event["path"] for event in events} == {""}
    server.assert_sound()


def _streamed(ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
    fields = {k: body.pop(k) for k in ("custom_logit_processor", "rid") if k in body}
    params = {"temperature": 0, "max_new_tokens": 1200, **body}
    return {"input_ids": ids, "sampling_params": params, "stream": True, **fields}


def test_one_who_reads_slowly_loses_nothing(overlap: Client, texts: Texts) -> None:
    """The answer is long over when the first byte is read; the socket holds little of it."""
    script, prompt_len = texts.make(7)
    custom = {"script": script, "eos": texts.eos, **EVENTS}
    params = {"custom_logit_processor": Forced.to_str(), "custom_params": custom}
    body = json.dumps(_streamed(script[:prompt_len], dict(params))).encode()
    host, port = "127.0.0.1", overlap.server.port
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, port))
        head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        sock.sendall(
            f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        )
        time.sleep(3)
        received = b""
        while block := sock.recv(65536):
            received += block
    lines = [
        json.loads(line[5:])
        for line in received.decode().splitlines()
        if line.startswith("data: {")
    ]
    final = lines[-1]
    assert put_together(final["meta_info"]["multiverse_events"]) == final["text"]


@pytest.mark.weights("tiny")
@pytest.mark.parametrize("api", ["chat/completions", "completions"])
def test_openai_streams_carry_them_in_chunks_of_their_own(
    overlap: Client, tokenizer: Any, api: str
) -> None:
    problem = next(iter(task.generate(78, "test")))
    body: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 800, "stream": True}
    if api == "completions":
        body["prompt"] = prompt_ids(tokenizer, problem)
    else:
        body["messages"] = [{"role": "user", "content": task.prompt(problem, "parallel")}]
    plain = _deltas(overlap.server.stream(f"/v1/{api}", body))
    chunks = list(overlap.server.stream(f"/v1/{api}", {**body, "custom_params": EVENTS}))
    assert _deltas(iter(chunks)) == plain
    extra = [chunk for chunk in chunks if "multiverse" in chunk]
    assert all(chunk["choices"] == [] and chunk["id"] == chunks[0]["id"] for chunk in extra)
    events = [event for chunk in extra for event in chunk["multiverse"]["events"]]
    assert put_together(events) == plain
    assert {chunk["multiverse"]["index"] for chunk in extra} == {0}
    assert len(extra) > 20  # as they come
    assert events[-1]["kind"] == "end"
    assert events[-1]["figures"]["multiverse_forks"] > 0


def _deltas(chunks: Iterator[Any]) -> str:
    text = ""
    for chunk in chunks:
        for choice in chunk["choices"]:
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return text


@pytest.mark.weights("tiny")
def test_two_choices_tell_of_their_own(overlap: Client) -> None:
    problem = next(iter(task.generate(78, "test")))
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": task.prompt(problem, "parallel")}],
        "max_tokens": 800,
        "n": 2,
        "temperature": 0.9,
        "stream": True,
        "custom_params": EVENTS,
    }
    texts = ["", ""]
    events: list[Events] = [[], []]
    for chunk in overlap.server.stream("/v1/chat/completions", body):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
        if "multiverse" in chunk:
            events[chunk["multiverse"]["index"]].extend(chunk["multiverse"]["events"])
    assert [put_together(one) for one in events] == texts


def test_what_is_no_switch_is_refused(overlap: Client, texts: Texts) -> None:
    with pytest.raises(ServerError, match=r"400.*multiverse\.events must be true or false"):
        overlap.generate(texts.words[:4], custom_params={"multiverse": {"events": "all"}})
