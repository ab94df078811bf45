"""The page in a browser: what it draws is what the text is, and hostile text is text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglang_multiverse.layout import layout_of
from sglang_multiverse.lexer import lex
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import parse
from sglang_multiverse.view.events import Event, events_of
from sglang_multiverse.view.geometry import rows
from sglang_multiverse.view.lanes import Timeline
from sglang_multiverse.view.page import page

from .test_show import EVENTS, TEXT
from .test_timeline import HOSTILE

pytestmark = pytest.mark.browser

#: What the page has drawn: of each lane its tokens, position and pieces' places.
DRAWN = """() => [...document.querySelectorAll("[data-path]")].map((lane) => ({
  path: lane.dataset.path,
  tokens: Number(lane.dataset.tokens),
  position: Number(lane.dataset.position),
  bars: [...lane.querySelectorAll(":scope > rect.bar")].map((bar) => ({
    tokens: Number(bar.dataset.length),
    x: Number(bar.getAttribute("x")),
    y: Number(bar.getAttribute("y")),
    width: Number(bar.getAttribute("width")),
  })),
}))"""


def told(text: str) -> list[Event]:
    lexed = lex(text)
    trace = parse(lexed.ids, lexed.dialect)
    return events_of(trace, layout_of(trace), lexed.text, parallelism(trace))


def opened(tab: Any, folder: Path, html: str) -> Any:
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    tab.goto(path.as_uri())
    return tab


def check(tab: Any, events: list[Event]) -> None:
    """Lanes are paths, widths are tokens, rows and places those of the model in Python."""
    timeline = Timeline(events)
    row = rows(timeline).row
    drawn = {lane["path"]: lane for lane in tab.evaluate(DRAWN)}
    assert set(drawn) == {lane.path for lane in timeline.lanes}
    room = tab.evaluate("document.querySelector('[data-part=scroll]').clientWidth") - 24
    scale = room / max(timeline.tokens, timeline.critical_path)
    top = min(bar["y"] for bar in drawn[""]["bars"])
    for lane in timeline.lanes:
        found = drawn[lane.path]
        assert (found["tokens"], found["position"]) == (lane.tokens, lane.position)
        assert [bar["tokens"] for bar in found["bars"]] == [one.tokens for one in lane.pieces]
        for bar, piece in zip(found["bars"], lane.pieces, strict=True):
            assert bar["width"] == pytest.approx(piece.tokens * scale, abs=0.02)
            assert bar["x"] == pytest.approx(
                12 + (piece.position - timeline.base) * scale, abs=0.02
            )
            assert bar["y"] - top == 36 * row[lane.path]


@pytest.mark.parametrize("kind", ["wellformed", "malformed", "plain"])
def test_every_real_trace(
    kind: str, tab: Any, traces: Callable[[str], list[dict[str, Any]]], tmp_path: Path
) -> None:
    for row in traces(kind):
        events = told(row["output"])
        opened(tab, tmp_path, page(Timeline(events), row["id"]))
        assert tab.title() == row["id"]
        check(tab, events)


def test_a_text_in_words(tab: Any, tmp_path: Path) -> None:
    """The figures, and the same as text for those who see no picture."""
    opened(tab, tmp_path, page(Timeline(told(TEXT)), "a text", ["a tag too many (token 3)"]))
    figures = {
        one.text_content().rstrip("0123456789.,×–"): one.query_selector("dd").text_content()
        for one in tab.query_selector_all("[data-part=figures] div")
    }
    assert (figures["forks"], figures["paths"], figures["depth"]) == ("1", "2", "1")
    assert tab.inner_text("[data-part=issues] summary") == "1 departure from the canonical form"
    tab.click("[data-part=as-text] > summary")
    tree = tab.inner_text("[data-part=tree]")
    assert "path 1.1 “1: a”" in tree
    assert "path 1.2 “2: b”" in tree
    assert tab.locator("svg rect[role=img]:not([aria-label])").count() == 0


def test_hover_and_keyboard(tab: Any, tmp_path: Path) -> None:
    opened(tab, tmp_path, page(Timeline(told(TEXT)), "a text"))
    tab.hover('[data-path="1.2"] rect.bar')
    assert "three" in tab.inner_text("[data-part=piece-text]")
    assert tab.inner_text("[data-part=piece-name]").startswith("path 1.2: ")
    tab.locator("svg rect.bar[tabindex='0']").focus()
    seen = []
    for key in ("ArrowUp", "ArrowUp", "Home", "End", "ArrowLeft"):
        tab.keyboard.press(key)
        seen.append(tab.inner_text("[data-part=piece-name]").split(":")[0])
    assert seen == ["path 1.1", "trunk, goal", "trunk, goal", "trunk, conclusion", "trunk, goal"]


def test_the_axis_of_time(tab: Any, tmp_path: Path) -> None:
    opened(tab, tmp_path, page(Timeline(EVENTS), "timed"))
    tab.check("[data-part=axis] input[value=time]")
    lanes = {lane["path"]: lane for lane in tab.evaluate(DRAWN)}
    widths = [lanes[path]["bars"][0]["width"] for path in ("1.1", "1.2")]
    assert widths[1] / widths[0] == pytest.approx(0.3 / 0.2, rel=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(scheme: str, tab: Any, tmp_path: Path) -> None:
    tab.emulate_media(color_scheme=scheme)
    opened(tab, tmp_path, page(Timeline(told(TEXT)), "a text"))
    ink, paper = tab.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert abs(brightness(ink) - brightness(paper)) > 150


def brightness(colour: str) -> float:
    numbers = [float(x) for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(numbers) / 3


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_does_nothing(text: str, tab: Any, tmp_path: Path) -> None:
    tab.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    events = [
        {"kind": "text", "path": "", "position": 0, "tokens": 3, "text": text},
        {"kind": "fork", "path": "", "position": 3, "paths": [{"path": "1.1", "label": text}]},
        {"kind": "text", "path": "1.1", "position": 3, "tokens": 200, "text": text},
        {"kind": "end", "path": "", "position": 5, "finish_reason": text},
    ]
    opened(tab, tmp_path, page(Timeline(events), text, [text]))
    tab.hover('[data-path="1.1"] rect.bar')
    if "\ud800" not in text:  # half a character, which does not come back
        assert tab.text_content("[data-part=piece-text]") == text
    assert tab.locator("img, iframe, object, embed, script:not([id])").count() == 1
    assert len(asked) == 1


def boxes(tab: Any) -> dict[str, list[float]]:
    """Widths of the bars of each lane."""
    return {lane["path"]: [bar["width"] for bar in lane["bars"]] for lane in tab.evaluate(DRAWN)}


def test_odd_but_usable_events_have_a_page(tab: Any, tmp_path: Path) -> None:
    """Python reads them first, so that the page reads what Python read."""
    events = [
        EVENTS[0] | {"position": 7.0, "tokens": 2.0, "t": None},
        EVENTS[1] | {"paths": [{"path": "1.1", "label": None}, {"path": "1.2"}]},
        *EVENTS[2:-1],
        EVENTS[-1]
        | {"figures": {"multiverse_net_parallelism": None, "multiverse_injected": [[1]]}},
    ]
    opened(tab, tmp_path, page(Timeline(events), "odd"))
    check(tab, events)
    assert tab.is_hidden("[data-part=axis]")
    assert "–" in tab.inner_text("[data-part=figures]")


def test_an_answer_that_was_cut_is_there_as_text(tab: Any, tmp_path: Path) -> None:
    opened(tab, tmp_path, page(Timeline(EVENTS[:4]), "cut"))
    tab.click("[data-part=as-text] > summary")
    assert "path 1.2 “2: find B”" in tab.inner_text("[data-part=tree]")


def test_what_its_reader_has_opened_stays_open(tab: Any, tmp_path: Path) -> None:
    opened(tab, tmp_path, page(Timeline(told(TEXT)), "a text"))
    tab.click("[data-part=as-text] > summary")
    tab.click("[data-part=tree] li > details > summary >> nth=0")
    tab.click("[data-part=wider]")
    tab.set_viewport_size({"width": 700, "height": 900})
    tab.wait_for_function("() => document.querySelector('[data-part=chart]').clientWidth > 1000")
    assert tab.locator("[data-part=tree] li > details").first.get_attribute("open") is not None


def test_zoom_without_a_piece_to_look_at(tab: Any, tmp_path: Path) -> None:
    """The page's ``+`` and ``-`` do nothing wrong where nothing was written."""
    opened(tab, tmp_path, page(Timeline(EVENTS[-1:]), "empty"))
    tab.click("[data-part=wider]")
    tab.click("[data-part=narrower]")
    opened(tab, tmp_path, page(Timeline(EVENTS[1:4]), "paths alone"))
    tab.click("[data-part=wider]")
    assert tab.inner_text("[data-part=piece-name]").startswith("path 1.1")


def test_marks_of_the_axis_differ(tab: Any, tmp_path: Path) -> None:
    """Of three tokens, and of a hundredth of a second."""
    quick = [event | {"t": event["t"] / 100} for event in EVENTS]
    for events in (EVENTS[:1], quick):
        opened(tab, tmp_path, page(Timeline(events), "short"))
        if tab.is_visible("[data-part=axis]"):
            tab.check("[data-part=axis] input[value=time]")
        marks = tab.eval_on_selector_all(".grid text", "all => all.map((one) => one.textContent)")
        assert len(marks) > 1
        assert len(set(marks)) == len(marks)


def test_a_fork_of_more_paths_than_a_call_takes_arguments(tab: Any, tmp_path: Path) -> None:
    opened(tab, tmp_path, page(Timeline(EVENTS), "any"))
    found = tab.evaluate(
        """() => {
          const timeline = new Timeline();
          const paths = [...Array(200_000).keys()].map((i) => ({ path: `1.${i + 1}`, label: "" }));
          timeline.feed({ kind: "fork", path: "", position: 0, paths });
          timeline.lay();
          return [timeline.summary().paths, timeline.inTextOrder().length];
        }"""
    )
    assert found == [200_000, 0]
