"""``multiverse show``: what it reads, what it writes, and what it says where it cannot."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.layout import layout_of
from sglang_multiverse.lexer import lex
from sglang_multiverse.structure import parse
from sglang_multiverse.view.lanes import Timeline
from sglang_multiverse.view.perfetto import perfetto
from sglang_multiverse.view.plain import plain
from sglang_multiverse.view.svg import svg

from .test_timeline import carried

EVENTS: list[dict[str, Any]] = [
    {"kind": "text", "path": "", "position": 7, "tokens": 2, "text": "Hi ", "t": 0.5},
    {
        "kind": "fork",
        "path": "",
        "position": 9,
        "t": 0.6,
        "paths": [{"path": "1.1", "label": "1: find A"}, {"path": "1.2", "label": "2: find B"}],
    },
    {"kind": "text", "path": "1.2", "position": 9, "tokens": 5, "text": "B is so", "t": 0.9},
    {"kind": "text", "path": "1.1", "position": 9, "tokens": 3, "text": "A is", "t": 0.8},
    {"kind": "close", "path": "1.1", "position": 12, "t": 0.8},
    {"kind": "close", "path": "1.2", "position": 14, "t": 0.9},
    {"kind": "join", "path": "", "position": 14, "t": 1.0},
    {"kind": "text", "path": "", "position": 14, "tokens": 4, "text": " done", "t": 1.4},
    {"kind": "end", "path": "", "position": 18, "t": 1.4, "finish_reason": "stop"},
]
TEXT = (
    "<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n<Outline>\n2: b\n</Outline>\n</Goal>\n"
    "<Path>\n1: one two\n</Path>\n<Path>\n2: three\n</Path>\n"
    "<Conclusion>\nso\n</Conclusion>\n</Parallel>"
)


def show(*args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["show", *map(str, args)], input=stdin)


def put(folder: Path, text: str, name: str = "file.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def sse(*bodies: object) -> str:
    return "".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + "data: [DONE]\n\n"


ANSWERS: dict[str, object] = {
    "an answer": {"text": "…", "meta_info": {"id": "a", "multiverse_events": EVENTS}},
    "two answers": [
        {"text": "…", "meta_info": {"id": "a", "multiverse_events": EVENTS}},
        {"text": TEXT, "meta_info": {"id": "b"}},
    ],
    "events": EVENTS,
}
STREAMS = {
    "events, one a line": "\n".join(json.dumps(event) for event in EVENTS),
    "a stream of /generate": sse(
        *({"text": "…", "meta_info": {"id": "a", "multiverse_events": EVENTS[:n]}} for n in (3, 9))
    ),
    "increments of /generate": sse(
        *(
            {"text": "…", "meta_info": {"id": "a", "multiverse_events": part}}
            for part in (EVENTS[:4], EVENTS[4:])
        )
    ),
    "a stream of chat": sse(
        {"choices": [{"delta": {"content": "Hi"}}]},
        {"choices": [], "multiverse": {"index": 0, "events": EVENTS[:5]}},
        {"choices": [], "multiverse": {"index": 1, "events": EVENTS[:1]}},
        {"choices": [], "multiverse": {"index": 0, "events": EVENTS[5:]}},
    ),
    **{name: json.dumps(body, indent=1) for name, body in ANSWERS.items()},
}


@pytest.mark.parametrize("name", STREAMS)
def test_events_as_a_server_sent_them(name: str, tmp_path: Path) -> None:
    done = show(put(tmp_path, STREAMS[name], "recorded"))
    assert done.exit_code == 0, done.output
    assert "14 tokens on a critical path of 11" in done.stdout
    assert re.search(r"^  1\.2 +\*.*2: find B \(5\)$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "body",
    [
        {"id": "t", "output": TEXT},
        {"id": "t", "text": TEXT},
        {"text": TEXT, "meta_info": {"id": "t"}},
        {"id": "t", "choices": [{"message": {"content": TEXT}}]},
        {
            "id": "t",
            "choices": [{"message": {"reasoning_content": TEXT[:60], "content": TEXT[60:]}}],
        },
        {"id": "t", "choices": [{"text": TEXT}]},
    ],
)
def test_texts_wherever_they_stand(body: dict[str, Any], tmp_path: Path) -> None:
    for text in (json.dumps(body), json.dumps(body) + "\n" + json.dumps({**body, "id": "other"})):
        done = show(put(tmp_path, text))
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("t\n")
        assert "1 forks, 2 paths" in done.stdout


PARTS = [TEXT[i : i + 20] for i in range(0, len(TEXT), 20)]
WITHOUT_EVENTS = {
    "generate": sse(
        *({"text": "".join(PARTS[: i + 1]), "meta_info": {"id": "a"}} for i in range(len(PARTS)))
    ),
    "increments": sse(*({"text": part, "meta_info": {"id": "a"}} for part in PARTS)),
    "chat": sse(*({"choices": [{"delta": {"content": part}}]} for part in PARTS)),
    "completions": sse(*({"choices": [{"index": 0, "text": part}]} for part in PARTS)),
}


@pytest.mark.parametrize("name", WITHOUT_EVENTS)
def test_streams_without_events_are_their_text(name: str, tmp_path: Path) -> None:
    done = show(put(tmp_path, WITHOUT_EVENTS[name], "recorded"))
    assert done.exit_code == 0, done.output
    assert "1 forks, 2 paths" in done.stdout


def test_a_stream_that_was_cut(tmp_path: Path) -> None:
    """In the middle of a line: what came before it is shown."""
    done = show(put(tmp_path, STREAMS["a stream of chat"][:-60], "recorded"))
    assert done.exit_code == 0, done.output
    assert "2: find B (5)" in done.stdout


def test_plain_text_and_standard_input() -> None:
    done = show("-", stdin=TEXT)
    assert done.exit_code == 0, done.output
    assert "1 forks, 2 paths" in done.stdout


def test_the_format_is_that_of_the_suffix(tmp_path: Path) -> None:
    file = put(tmp_path, json.dumps(EVENTS))
    starts = {"a.html": "<!doctype html>", "a.svg": "<svg", "a.json": "{", "a": "<!doctype html>"}
    for name, start in starts.items():
        assert show(file, "--out", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert show(file, "--format", "svg").stdout.startswith("<svg")
    profile = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    named = {e["args"]["name"] for e in profile["traceEvents"] if e["name"] == "thread_name"}
    assert named == {"trunk", "path 1.1: 1: find A", "path 1.2: 2: find B"}
    (path,) = [e for e in profile["traceEvents"] if e.get("args", {}).get("text") == "B is so"]
    assert (path["ts"], path["dur"]) == (pytest.approx(0.6e6), pytest.approx(0.3e6))


def test_one_of_many(tmp_path: Path) -> None:
    rows = [json.dumps({"id": f"t{i}", "output": TEXT}) for i in range(20)]
    file = put(tmp_path, "\n".join(rows))
    assert show(file).stdout.startswith("t0\n")
    assert show(file, "--id", "t13").stdout.startswith("t13\n")
    done = show(file, "--id", "nobody")
    assert done.exit_code == 2
    assert "no trace 'nobody'; there are t0, t1" in done.stderr
    assert "and 12 more" in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ('{"id": 3}', "or 'output' or 'completion'"),
        ("[1, 2]", "expected a JSON object"),
        ('{"kind": "text", "path": "", "position": "x", "tokens": 1, "text": ""}', "event 1"),
        ('{"kind": "text", "path": "4.4", "position": 0, "tokens": 1, "text": ""}', "event 1"),
        ('{"text": "a", "meta_info": {"multiverse_events": [3]}}', "event 1"),
        ('[{"kind": "text", "path": "", "position": 1e400, "tokens": 1, "text": ""}]', "event 1"),
        ('[{"kind": "text", "path": "", "position": NaN, "tokens": 1, "text": ""}]', "event 1"),
        ('data: {"choices": []}', "a stream that holds neither events nor text"),
        ('{"choices": [{"message": {"content": null}}]}', "name the one that it is by --field"),
        ("[" * 100_000, "not JSON"),
    ],
    ids=itertools.count(),
)
def test_what_cannot_be_shown_is_said_in_a_line(text: str, says: str, tmp_path: Path) -> None:
    done = show(put(tmp_path, text))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert not done.stdout


def test_files_that_are_not_there(tmp_path: Path) -> None:
    file = put(tmp_path, json.dumps(EVENTS))
    for args in ((tmp_path / "none",), (file, "--out", tmp_path / "no" / "page.html")):
        done = show(*args)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("kind", ["wellformed", "malformed", "plain"])
def test_every_real_trace_in_every_format(
    kind: str, traces: Callable[[str], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Whatever is wrong with it, it has a page that says so."""
    file, out = tmp_path / "row.jsonl", tmp_path / "page.html"
    for row in traces(kind):
        file.write_text(json.dumps(row), encoding="utf-8")
        done = show(file, "--out", out)
        assert done.exit_code == 0, (row["id"], done.output)
        data = json.loads(carried(out.read_text(encoding="utf-8")))
        lexed = lex(row["output"])
        trace = parse(lexed.ids, lexed.dialect)
        assert len(data["issues"]) == len(trace.issues), row["id"]
        timeline = Timeline(data["events"])
        assert timeline.critical_path == layout_of(trace).critical_path, row["id"]
        ElementTree.fromstring(svg(timeline, row["id"], data["issues"]))
        json.loads(perfetto(timeline, row["id"]))
        assert plain(timeline, row["id"], data["issues"]).count("\n! ") == len(trace.issues)


def test_the_picture_of_the_documents_is_what_the_command_draws(repository: Path) -> None:
    figures = repository / "docs" / "figures"
    model = repository / "sglang_multiverse" / "tiny" / "model"
    done = show(figures / "fork.jsonl", "--tokenizer", model, "--format", "svg")
    assert done.stdout == (figures / "fork.svg").read_text(encoding="utf-8")
