"""Recorded answers and streams, several in one file, as ``curl`` and hands leave them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from .test_show import EVENTS, STREAMS, TEXT, put, show, sse

OTHER = TEXT.replace("three", "another one")
HEADERS = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def pieces(text: str, size: int = 20) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def in_turn(*texts: str, increments: bool = False) -> str:
    """A stream of /generate for ``n`` or a batch: its chunks name the answer they belong to."""
    bodies: list[dict[str, Any]] = []
    for i, _ in enumerate(pieces(max(texts, key=len))):
        for index, text in enumerate(texts):
            part = "".join(pieces(text)[i : i + 1] if increments else pieces(text)[: i + 1])
            bodies.append({"index": index, "text": part, "meta_info": {"id": f"r{index}"}})
    return sse(*bodies)


def check_apart(stream: str, tmp_path: Path) -> None:
    """Its two answers are shown as each would be alone."""
    file = put(tmp_path, stream, "recorded")
    for index, text in enumerate((TEXT, OTHER)):
        name = f"recorded-{index}" if index else "recorded"
        alone = show(put(tmp_path, text, "alone.txt")).stdout.splitlines()[1:]
        done = show(file, "--id", name)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == [name, *alone]


@pytest.mark.parametrize("increments", [False, True])
def test_answers_of_one_stream_are_kept_apart(increments: bool, tmp_path: Path) -> None:
    check_apart(in_turn(TEXT, OTHER, increments=increments), tmp_path)


def test_events_of_one_stream_are_kept_apart(tmp_path: Path) -> None:
    """Both answers fork into paths of the same names."""
    for cut in ((3, 9), (2, 5, 9)):
        bodies = [
            {"index": index, "text": "…", "meta_info": {"multiverse_events": EVENTS[:n]}}
            for n in cut
            for index in (0, 1)
        ]
        file = put(tmp_path, sse(*bodies), "recorded")
        for name in ("recorded", "recorded-1"):
            done = show(file, "--id", name)
            assert done.exit_code == 0, done.output
            assert "14 tokens on a critical path of 11" in done.stdout


def test_choices_of_a_chat_are_kept_apart(tmp_path: Path) -> None:
    bodies = [
        {"choices": [{"index": index, "delta": {"content": part}}]}
        for pair in itertools.zip_longest(pieces(TEXT), pieces(OTHER), fillvalue="")
        for index, part in enumerate(pair)
    ]
    check_apart(sse(*bodies), tmp_path)


def test_two_streams_in_one_file_are_two_answers(tmp_path: Path) -> None:
    """As ``curl … >> file`` leaves them."""
    chat = STREAMS["a stream of chat"]
    file = put(tmp_path, chat + chat, "recorded")
    for args in ((), ("--id", "recorded 2")):
        done = show(file, *args)
        assert done.exit_code == 0, done.output
        assert "14 tokens on a critical path of 11" in done.stdout


def test_increments_that_begin_alike_are_all_shown(tmp_path: Path) -> None:
    """The second piece begins with the first: it is what is new, as a later one shows."""
    parts = ["1", "11", "2"]
    file = put(tmp_path, sse(*({"text": part, "meta_info": {}} for part in parts)), "recorded")
    plain = put(tmp_path, "1112", "plain.txt")
    assert show(file).stdout.splitlines()[1:] == show(plain).stdout.splitlines()[1:]


@pytest.mark.parametrize("name", ["a stream of chat", "an answer", "events, one a line"])
@pytest.mark.parametrize(
    "before",
    [
        HEADERS,
        HEADERS.replace("\r\n", "\n"),
        "HTTP/1.1 100 Continue\r\n\r\n" + HEADERS,
        "HTTP/2 200 \r\nserver: a\r\n\r\n",
        "\ufeff",
    ],
)
def test_what_stands_before_an_answer_is_passed_over(
    name: str, before: str, tmp_path: Path
) -> None:
    done = show(put(tmp_path, before + STREAMS[name], "recorded"))
    assert done.exit_code == 0, done.output
    assert "14 tokens on a critical path of 11" in done.stdout


@pytest.mark.parametrize("lead", [": connected\n\n", "event: message\nid: 7\n", "retry: 3\n: \n\n"])
def test_a_stream_may_begin_with_any_field(lead: str, tmp_path: Path) -> None:
    done = show(put(tmp_path, lead + STREAMS["a stream of chat"], "recorded"))
    assert "14 tokens on a critical path of 11" in done.stdout


@pytest.mark.parametrize("text", [": a text\ndata", "data: and more of it", "event: none\nat all"])
def test_a_text_that_looks_like_a_stream_is_a_text(text: str, tmp_path: Path) -> None:
    done = show(put(tmp_path, text, "note"))
    assert done.exit_code == 0, done.output
    assert "tokens on a critical path" in done.stdout


def test_events_that_were_cut_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """Their ``text`` is no trace of its own."""
    file = put(tmp_path, STREAMS["events, one a line"][:-30], "recorded")
    done = show(file)
    assert done.exit_code == 0, done.output
    assert "2: find B (5)" in done.stdout


@pytest.mark.parametrize(
    "bodies",
    [
        [{"choices": 5}],
        [{"choices": True}],
        [{"choices": [5]}],
        [{"choices": [{"delta": 5}]}],
        [{"multiverse": {"events": 5}}],
        [{"multiverse": {"events": [], "index": {}}}],
        [{"multiverse": 5, "meta_info": 5, "text": 5}],
        [{"meta_info": {"multiverse_events": 5}}],
        [{"index": [], "text": ""}],
    ],
)
def test_a_stream_of_anything_else_is_said_to_be_one(
    bodies: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = show(put(tmp_path, sse(*bodies), "recorded"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: recorded:1: a stream that holds neither events nor text\n"


@pytest.mark.parametrize("error", ["too \x1b[31mlong", {"message": "too \x1b[31mlong", "code": 4}])
def test_what_the_server_said_instead_of_an_answer(error: Any, tmp_path: Path) -> None:
    done = show(put(tmp_path, sse({"error": error}), "recorded"))
    assert done.exit_code == 2
    assert "a stream that holds an error: too [31mlong" in done.stderr


def test_ids_are_printed_without_control_characters(tmp_path: Path) -> None:
    rows = [json.dumps({"id": f"\x1b[31m{i}\0", "output": TEXT}) for i in range(2)]
    done = show(put(tmp_path, "\n".join(rows)), "--id", "none")
    assert done.exit_code == 2
    assert "there are [31m0, [31m1\n" in done.stderr


def test_a_null_is_no_text(tmp_path: Path) -> None:
    done = show(put(tmp_path, json.dumps({"id": "t", "output": None, "text": TEXT})))
    assert done.exit_code == 0, done.output
    assert "1 forks, 2 paths" in done.stdout


def test_rows_of_traces_may_have_columns_that_events_have(tmp_path: Path) -> None:
    row = {"id": "t", "kind": "text", "path": "a/b", "output": TEXT}
    assert "1 forks, 2 paths" in show(put(tmp_path, json.dumps(row))).stdout


def test_a_stream_cut_in_its_first_line_is_no_text(tmp_path: Path) -> None:
    done = show(put(tmp_path, 'data: {"choices": [{"del', "recorded"))
    assert done.exit_code == 2
    assert "neither events nor text" in done.stderr
