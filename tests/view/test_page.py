"""The page in a browser: what it draws is what the text is, and hostile text is text."""

from __future__ import annotations

import json
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
from sglang_multiverse.view.live import live
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
        opened(tab, tmp_path, page(events, row["id"]))
        assert tab.title() == row["id"]
        check(tab, events)


def test_a_text_in_words(tab: Any, tmp_path: Path) -> None:
    """The figures, and the same as text for those who see no picture."""
    opened(tab, tmp_path, page(told(TEXT), "a text", ["a tag too many (token 3)"]))
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
    opened(tab, tmp_path, page(told(TEXT), "a text"))
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
    opened(tab, tmp_path, page(EVENTS, "timed"))
    tab.check("[data-part=axis] input[value=time]")
    lanes = {lane["path"]: lane for lane in tab.evaluate(DRAWN)}
    widths = [lanes[path]["bars"][0]["width"] for path in ("1.1", "1.2")]
    assert widths[1] / widths[0] == pytest.approx(0.3 / 0.2, rel=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(scheme: str, tab: Any, tmp_path: Path) -> None:
    tab.emulate_media(color_scheme=scheme)
    opened(tab, tmp_path, page(told(TEXT), "a text"))
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
    opened(tab, tmp_path, page(events, text, [text]))
    tab.hover('[data-path="1.1"] rect.bar')
    if "\ud800" not in text:  # half a character, which does not come back
        assert tab.text_content("[data-part=piece-text]") == text
    assert tab.locator("img, iframe, object, embed, script:not([id])").count() == 1
    assert len(asked) == 1


def streamed(*bodies: Any) -> str:
    return "".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + "data: [DONE]\n\n"


def serve(tab: Any, answer: Callable[[Any], None]) -> list[dict[str, Any]]:
    """The live page on a server that is none; what it asks is returned."""
    asked: list[dict[str, Any]] = []

    def chat(route: Any) -> None:
        asked.append({"body": route.request.post_data_json, "headers": route.request.headers})
        answer(route)

    tab.route(
        "http://server.test/**", lambda route: route.fulfill(body=live(), content_type="text/html")
    )
    tab.route("http://server.test/v1/chat/completions", chat)
    tab.goto("http://server.test/multiverse/view")
    return asked


def test_the_live_page_asks_and_draws(tab: Any) -> None:
    body = streamed(
        {"choices": [{"delta": {"content": "Hi"}}]},
        *({"choices": [], "multiverse": {"index": 0, "events": [event]}} for event in EVENTS),
    )
    asked = serve(tab, lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    tab.fill("#question", "What is A?")
    tab.fill("#key", "secret")
    tab.check("#beside")
    tab.click("#go")
    tab.wait_for_function("document.getElementById('state').textContent === 'done'")
    (parallel, beside) = sorted(
        asked, key=lambda one: not one["body"]["custom_params"]["multiverse"]["enabled"]
    )
    assert parallel["headers"]["authorization"] == "Bearer secret"
    assert parallel["body"]["messages"][0]["content"].endswith("and in parallel before answering.")
    assert not beside["body"]["custom_params"]["multiverse"]["enabled"]
    assert beside["body"]["messages"][0]["content"].endswith("step by step before answering.")
    for side in ("#parallel", "#sequential"):
        lanes = tab.locator(f"{side} [data-path]")
        assert lanes.evaluate_all("all => all.map((one) => one.dataset.tokens)") == ["14", "3", "5"]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, '{"object": "error", "message": "too <b>long</b>"}', "HTTP 400: too <b>long</b>"),
        (401, '{"error": "Unauthorized"}', "HTTP 401: Unauthorized"),
        (502, "bad gateway", "HTTP 502: bad gateway"),
        (200, streamed({"error": {"message": "fork and join failed"}}), "fork and join failed"),
        (200, streamed({"choices": []}), "is it started with --plugin multiverse?"),
    ],
)
def test_what_the_server_refuses_is_said(browser: Any, status: int, body: str, says: str) -> None:
    tab = browser.new_page()
    serve(tab, lambda route: route.fulfill(status=status, body=body))
    tab.click("#go")
    tab.wait_for_function("document.getElementById('state').textContent === 'done'")
    assert says in tab.inner_text("#parallel .error")
    assert tab.is_enabled("#go")
    tab.close()


def test_an_answer_can_be_stopped(tab: Any) -> None:
    held: list[Any] = []
    serve(tab, held.append)
    tab.click("#go")
    tab.wait_for_function("!document.getElementById('stop').disabled")
    tab.click("#stop")
    tab.wait_for_function("document.getElementById('state').textContent === 'stopped'")
    assert tab.is_hidden("#parallel .error")
