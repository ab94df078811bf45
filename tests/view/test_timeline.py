"""Events of a text and the lanes read from them say what the tree and the layout say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.layout import Layout, layout_of
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import Block, Path, Trace, parse
from sglang_multiverse.view.events import events_of
from sglang_multiverse.view.geometry import rows
from sglang_multiverse.view.lanes import EventError, Timeline
from sglang_multiverse.view.page import page
from sglang_multiverse.view.perfetto import POSITION, perfetto
from sglang_multiverse.view.plain import plain
from sglang_multiverse.view.svg import svg

from ..core.generate import DIALECT, Made, made_texts, tag_soup

SVG = "{http://www.w3.org/2000/svg}"


def told(ids: list[int]) -> tuple[Trace, Layout, list[dict[str, Any]]]:
    """Each token's text is one letter, so that lengths can be counted."""
    trace = parse(ids, DIALECT)
    laid = layout_of(trace)
    return trace, laid, events_of(trace, laid, lambda a, b: "x" * (b - a), parallelism(trace))


def paths_of(blocks: list[Block], prefix: str = "") -> dict[str, Path]:
    found = {}
    for i, block in enumerate(blocks, start=1):
        for j, path in enumerate(block.paths, start=1):
            name = f"{prefix}.{i}.{j}" if prefix else f"{i}.{j}"
            found[name] = path
            found |= paths_of(path.blocks, name)
    return found


def check(ids: list[int]) -> None:
    trace, laid, events = told(ids)
    timeline = Timeline(events)
    wanted = paths_of(trace.blocks)
    assert [lane.path for lane in timeline.lanes[1:]] != [] or not wanted
    assert {lane.path for lane in timeline.lanes[1:]} == set(wanted)
    for lane in timeline.lanes[1:]:
        path = wanted[lane.path]
        assert lane.tokens == path.end - path.start
        assert lane.position == laid.position[path.start]
        assert lane.end == laid.position[path.start : path.end].max() + 1
    assert timeline.tokens == len(ids)
    assert timeline.critical_path == laid.critical_path
    assert sum(piece.tokens for piece in timeline.in_text_order()) == len(ids)
    for piece in timeline.in_text_order():
        assert len(piece.text) == piece.tokens


@given(made_texts())
def test_lanes_are_the_paths_of_any_text(made: Made) -> None:
    check(made.tokens())


@given(tag_soup())
def test_whatever_a_model_may_emit_has_lanes(ids: list[int]) -> None:
    check(ids)


@given(made_texts(canonical=True), st.integers(1, 7))
def test_tokens_told_one_by_one_give_the_same_lanes(made: Made, size: int) -> None:
    """As a server tells them: in pieces, in any grouping."""
    ids = made.tokens()
    _, _, events = told(ids)
    cut: list[dict[str, Any]] = []
    for event in events:
        if event["kind"] != "text":
            cut.append(event)
            continue
        for at in range(0, event["tokens"], size):
            part = event["text"][at : at + size]
            place = {"position": event["position"] + at, "tokens": len(part), "text": part}
            cut.append(event | place)
    whole, parts = Timeline(events), Timeline(cut)
    assert [(a.path, a.tokens, a.end, a.critical) for a in whole.lanes] == [
        (b.path, b.tokens, b.end, b.critical) for b in parts.lanes
    ]
    assert rows(whole) == rows(parts)


@given(made_texts())
def test_the_critical_path_is_one_chain_of_all_positions(made: Made) -> None:
    """Its lanes' pieces cover each position once."""
    timeline = Timeline(told(made.tokens())[2])
    seen = sorted(
        position
        for lane in timeline.lanes
        if lane.critical
        for piece in lane.pieces
        for position in range(piece.position, piece.end)
    )
    assert seen == list(range(timeline.base, timeline.base + timeline.critical_path))


@given(made_texts())
def test_lanes_that_run_side_by_side_do_not_overlap(made: Made) -> None:
    timeline = Timeline(told(made.tokens())[2])
    where = rows(timeline)
    for a in timeline.lanes:
        for b in timeline.lanes:
            if a is not b and where.row[a.path] == where.row[b.path]:
                spans = [
                    {p for piece in lane.pieces for p in range(piece.position, piece.end)}
                    for lane in (a, b)
                ]
                assert not spans[0] & spans[1]


@given(made_texts())
def test_every_format_of_any_text(made: Made) -> None:
    _, _, events = told(made.tokens())
    timeline = Timeline(events)
    drawn = ElementTree.fromstring(svg(timeline, "a text"))
    groups = [group for group in drawn.iter(f"{SVG}g") if "data-path" in group.attrib]
    assert [g.get("data-path") for g in groups] == [lane.path for lane in timeline.lanes]
    assert [int(g.get("data-tokens") or 0) for g in groups] == [x.tokens for x in timeline.lanes]
    trace = json.loads(perfetto(timeline, "a text"))
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert sum(event["dur"] for event in slices) == POSITION * timeline.tokens
    assert f"{timeline.tokens:,} tokens on a critical path" in plain(timeline, "a text")
    assert json.loads(carried(page(events, "a text")))["events"] == events


def carried(html: str) -> str:
    """The data that a page carries."""
    start = html.index('id="data">') + len('id="data">')
    return html[start : html.index("</script>", start)]


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</title></style></svg><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "]]><!--<![CDATA[",
    "{{script}} {{data}}",
    "\x00\x07\x1b[31m\ud800\uffff\u2028",
    "{{policy}}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text(text: str) -> None:
    events = [
        {"kind": "text", "path": "", "position": 0, "tokens": 3, "text": text},
        {
            "kind": "fork",
            "path": "",
            "position": 3,
            "paths": [{"path": "1.1", "label": text}, {"path": "1.2", "label": text}],
        },
        {"kind": "text", "path": "1.1", "position": 3, "tokens": 2, "text": text},
        {"kind": "end", "path": "", "position": 5, "finish_reason": text},
    ]
    timeline = Timeline(events)
    html = page(events, text, [text])
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert "<img" not in html
    assert json.loads(carried(html)) == {"events": events, "issues": [text]}
    drawn = ElementTree.fromstring(svg(timeline, text, [text]))
    tags = {element.tag.removeprefix(SVG) for element in drawn.iter()}
    assert tags <= {"svg", "title", "style", "text", "line", "rect", "path", "g"}
    shown = plain(timeline, text, [text])
    assert all(c.isprintable() or c == "\n" for c in shown)
    json.loads(perfetto(timeline, text))


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([{"kind": "text"}], "event 1"),
        ([{"kind": "text", "path": "9.9", "position": 0, "tokens": 1, "text": "a"}], "event 1"),
        ([{"kind": "text", "path": "", "position": 0, "tokens": -1, "text": ""}], "-1 tokens"),
        ([{"kind": "join", "path": "", "position": 0}], "the trunk joins nothing"),
        ([{"kind": "dance", "path": "", "position": 0}], "no kind 'dance'"),
        ([{"kind": "fork", "path": "", "position": 0, "paths": 3}], "event 1"),
        ([{"kind": "fork", "path": "", "position": 0, "paths": [{"path": ""}]}], "there already"),
    ],
)
def test_events_that_make_no_timeline(events: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(EventError, match=says):
        Timeline(events)
