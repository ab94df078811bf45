"""Events of a text and the lanes read from them say what the tree and the layout say."""

from __future__ import annotations

import json
import time
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
    assert json.loads(carried(page(timeline, "a text")))["events"] == events


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
    html = page(Timeline(events), text, [text])
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


def text(path: str, position: int, tokens: int, **more: Any) -> dict[str, Any]:
    place = {"path": path, "position": position, "tokens": tokens}
    return {"kind": "text", "text": "a " * min(tokens, 9), **place, **more}


FORK = {"kind": "fork", "path": "", "position": 3, "paths": [{"path": "1.1"}, {"path": "1.2"}]}
JOIN = {"kind": "join", "path": "", "position": 9}


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([text("9.9", 0, 1)], 'event 1: no fork has told of path "9.9"'),
        ([{"kind": "join", "path": "", "position": 0}], "event 1: the trunk joins nothing"),
        ([FORK, FORK | {"paths": [{"path": "2.1"}]}], "event 2: the trunk forks twice"),
        (
            [FORK, {**FORK, "path": "1.1"}],
            'event 2: path 1 of paths is "1.1", not a name as "1.1.1.1"',
        ),
        ([FORK, JOIN, FORK | {"position": 9}], "event 3: path 1.1 is there already"),
        ([text("", 9, 4), text("", 8, 1)], "event 2: position 8, but the trunk has come to 13"),
        ([FORK, text("1.1", 3, 9), text("1.1", 4, 1)], "event 3: .* path 1.1 has come to 12"),
        ([FORK, text("1.2", 3, 9), JOIN], "event 3: position 9, but path 1.2, .* ends at 12"),
        ([FORK, text("1.2", 10**12, 1), JOIN], "event 3: position 9, .* ends at 1,000,000,000,001"),
        ([FORK, JOIN | {"position": 1}], "event 2: position 1, but the trunk has come to 3"),
        ([text("", 0, 1, t=2), text("", 1, 1, t=1)], "event 2: t 1, but the trunk has come to 2"),
        (
            [FORK | {"t": 0}, text("1.1", 3, 1, t=5), JOIN | {"t": 4}],
            "event 3: t 4, but path 1.1, .* ends at 5",
        ),
    ],
)
def test_events_that_cannot_have_happened(events: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(EventError, match=says):
        Timeline(events)


def test_times_that_some_events_lack_are_no_times() -> None:
    timeline = Timeline([text("", 0, 1, t=2), text("", 1, 1)])
    assert not timeline.timed
    assert json.loads(perfetto(timeline, "a"))["otherData"]["unit"].startswith("positions")
    assert all("t" not in event for event in timeline.events)


def test_bars_keep_to_their_columns_whatever_the_events_say() -> None:
    """The fork is open, so nothing says how far its paths may go."""
    timeline = Timeline([text("", 0, 1), FORK, text("1.1", 10**12, 10**12), text("1.2", 3, 1)])
    shown = plain(timeline, "far", width=80)
    assert max(map(len, shown.splitlines())) < 120


def test_a_deep_path_leaves_room_for_its_bar() -> None:
    events, path = [text("", 0, 1)], ""
    for depth in range(200):
        name = f"{path}.1.1".lstrip(".")
        events.append(
            {"kind": "fork", "path": path, "position": 1 + depth, "paths": [{"path": name}]}
        )
        events.append(text(path := name, 1 + depth, 1))
    shown = plain(Timeline(events), "deep")
    assert max(map(len, shown.splitlines())) <= 110
    assert "…" in shown


@pytest.mark.parametrize("draw", [perfetto, svg, plain])
def test_drawing_takes_time_by_the_length_of_an_answer(draw: Any) -> None:
    """Twenty thousand events: seconds if it took one look at all of them for each."""
    events: list[dict[str, Any]] = []
    for position in range(4000):
        block = position + 1
        names = [f"{block}.1", f"{block}.2"]
        paths = [{"path": name, "label": "a"} for name in names]
        events.append({"kind": "fork", "path": "", "position": position, "paths": paths})
        events += [text(name, position, 1) for name in names]
        events.append({"kind": "join", "path": "", "position": position + 1})
    timeline = Timeline(events)
    begun = time.process_time()
    draw(timeline, "long")
    assert time.process_time() - begun < 5
