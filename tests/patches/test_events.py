"""From what a scheduler tells to events: text by path, whole characters only, nothing lost."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sglang", reason="the serve extra is not installed")

from sglang_multiverse.engine.journal import Entry
from sglang_multiverse.patches.answers.events import EventLog, Increments, PathText


def decode(ids: list[int]) -> str:
    """Ids are bytes, as in a byte-level tokenizer's worst case."""
    return bytes(ids).decode(errors="replace")


@given(text=st.text(), sizes=st.lists(st.integers(1, 5)))
def test_text_comes_in_whole_characters(text: str, sizes: list[int]) -> None:
    ids = list(text.encode())
    path, pieces, at = PathText(decode), list[str](), 0
    for size in [*sizes, len(ids)]:
        pieces.append(path.feed(ids[at : at + size]))
        at += size
    pieces.append(path.feed((), whole=True))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_bytes_that_never_become_a_character_are_told_of_at_the_end() -> None:
    path = PathText(decode)
    assert path.feed([0x41, 0xE2, 0x82]) == ""
    assert path.feed((), whole=True) == "A\ufffd"


def test_a_decoder_that_looks_at_the_word_before_sees_it() -> None:
    def words(ids: list[int]) -> str:  # as SentencePiece: no blank before the first word
        return " ".join(f"w{i}" for i in ids)

    assert PathText(words, before=[7]).feed([1, 2]) == " w1 w2"
    assert PathText(words).feed([1, 2]) == "w1 w2"


def text(path: str, position: int, words: str) -> Entry:
    return Entry("text", path, position, array("q", list(words.encode())))


def test_events_of_a_block() -> None:
    log = EventLog(decode)
    label = array("q", list(b"\n1: find A\n"))
    log.add([(0.0, text("", 5, "go"))])
    log.add(
        [
            (0.1, Entry("fork", "", 7, paths=(("1.1", label), ("1.2", label)))),
            (0.1, text("1.1", 7, "one")),
            (0.1, text("1.2", 7, "two")),
        ]
    )
    log.add([(0.2, Entry("close", "1.1", 10)), (0.2, Entry("close", "1.2", 10))])
    end = [(0.3, Entry("join", "", 10)), (0.3, text("", 10, "on\x00")), (0.3, Entry("end", "", 13))]
    new = log.add(end, {"type": "stop", "matched": 0}, {"multiverse_forks": 1}, trimmed=True)
    assert [event["kind"] for event in new] == ["join", "text", "end"]
    assert new[1] == {
        "kind": "text",
        "path": "",
        "position": 10,
        "t": 0.3,
        "tokens": 3,
        "text": "on",  # the token that ended it counts, and is no text
    }
    assert new[2]["finish_reason"] == "stop"
    assert new[2]["figures"] == {"multiverse_forks": 1}
    fork = log.events[1]
    assert fork["paths"] == [
        {"path": "1.1", "label": "1: find A"},
        {"path": "1.2", "label": "1: find A"},
    ]
    assert [e["text"] for e in log.events if e["kind"] == "text"] == ["go", "one", "two", "on"]
    json.dumps(log.events)


@pytest.mark.parametrize("increments", [True, False])
def test_a_stream_sends_each_event_once(increments: bool) -> None:
    sent = Increments()
    found: list[Any] = []
    sofar: list[dict[str, Any]] = []
    for n in (2, 0, 3):
        new = [{"n": len(sofar) + i} for i in range(n)]
        sofar = [*sofar, *new]
        content = {"index": 1, "meta_info": {"multiverse_events": new if increments else sofar}}
        chunk = sent.chunk(content, {"id": "x"}, increments)
        assert (chunk is None) == (n == 0)
        if chunk is not None:
            assert chunk.startswith("data: ")
            assert chunk.endswith("\n\n")
            body = json.loads(chunk[6:])
            assert (body["id"], body["choices"], body["multiverse"]["index"]) == ("x", [], 1)
            found += body["multiverse"]["events"]
    assert [event["n"] for event in found] == list(range(5))


def test_an_answer_without_events_has_no_chunk() -> None:
    assert Increments().chunk({"meta_info": {}}, {}, increments=False) is None
