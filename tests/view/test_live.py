"""The live page in a browser, on a server whose answers are made here: what it asks, what it draws,
and what it says when it gets no answer."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sglang_multiverse.view.live import live

from .test_show import EVENTS

pytestmark = pytest.mark.browser


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


def wait(tab: Any, state: str) -> None:
    tab.wait_for_function(f"() => document.getElementById('state').textContent === '{state}'")


def told(*events: dict[str, Any]) -> str:
    return streamed(*({"choices": [], "multiverse": {"index": 0, "events": [e]}} for e in events))


ANSWER = told(*EVENTS)


def test_the_live_page_asks_and_draws(tab: Any) -> None:
    asked = serve(tab, lambda route: route.fulfill(body=ANSWER, content_type="text/event-stream"))
    tab.fill("#question", "What is A?")
    tab.fill("#key", "secret")
    tab.check("#beside")
    tab.click("#go")
    wait(tab, "done")
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
    ("mode", "name"),
    [("parallel", "In parallel"), ("sequential", "One after another"), ("plain", "As asked")],
)
def test_an_answer_is_called_what_was_asked_for(mode: str, name: str, tab: Any) -> None:
    serve(tab, lambda route: route.fulfill(body=ANSWER))
    tab.select_option("#mode", mode)
    tab.click("#go")
    wait(tab, "done")
    assert tab.inner_text("#parallel h2") == name


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, '{"object": "error", "message": "too <b>long</b>"}', "HTTP 400: too <b>long</b>"),
        (401, '{"error": "Unauthorized"}', "HTTP 401: Unauthorized; is the API key right?"),
        (422, '{"detail": [{"msg": "max_tokens: too many"}]}', "HTTP 422: max_tokens: too many"),
        (500, '{"error": {"code": 3}}', 'HTTP 500: {"error": {"code": 3}}'),
        (500, "null", "HTTP 500: null"),
        (502, "bad gateway", "HTTP 502: bad gateway"),
        (502, "<p>" * 1000, "<p>…"),
        (503, "", "HTTP 503"),
        (200, streamed({"error": {"message": "fork and join failed"}}), "fork and join failed"),
        (200, streamed({"choices": []}), "is it started with --plugin multiverse?"),
        (200, "data: {half\n\n", "no JSON: {half"),
        (200, "data: null\n\n", "the server told no events"),
        (200, told(*EVENTS[:-1]), "the answer broke off: its stream ended before it did"),
    ],
)
def test_what_the_server_refuses_is_said(browser: Any, status: int, body: str, says: str) -> None:
    tab = browser.new_page()
    serve(tab, lambda route: route.fulfill(status=status, body=body))
    tab.click("#go")
    wait(tab, "failed")
    assert tab.get_by_role("alert").count() == 1
    said = tab.get_by_role("alert").inner_text()
    assert says in said
    assert len(said) < 400
    assert tab.is_enabled("#go")
    tab.close()


@contextmanager
def answering(headers: dict[str, str], status: int, body: str, page: str = "") -> Iterator[str]:
    """A real server, for what only a network does. It gives ``page`` and answers everything else
    with ``status``, ``headers`` and ``body``."""

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, {"Content-Type": "text/html"}, page)

        def do_POST(self) -> None:
            self._say(status, headers, body)

        def do_OPTIONS(self) -> None:
            allowed = {"Access-Control-Allow-Headers": "*", "Access-Control-Allow-Methods": "*"}
            self._say(200, headers | allowed, "")

        def _say(self, status: int, headers: dict[str, str], body: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())
            self.wfile.flush()
            if "Content-Length" in headers:  # it promises more than comes
                time.sleep(0.5)  # a browser forgets what it has not read when a connection breaks

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_server_that_goes_away_in_the_middle(browser: Any) -> None:
    """What had come stays on the page."""
    cut = {"Content-Length": "100000"}
    with answering(cut, 200, told(*EVENTS[:4]).partition("data: [DONE]")[0], live()) as url:
        tab = browser.new_page()
        tab.goto(f"{url}/multiverse/view")
        tab.click("#go")
        wait(tab, "failed")
        said = tab.get_by_role("alert").inner_text()
        assert said.startswith("the answer broke off (")
        assert said.endswith("is the server still up?")
        tab.wait_for_function(
            "() => document.querySelectorAll('#parallel [data-path]').length === 3"
        )
        tab.click("#parallel [data-part=as-text] > summary")
        assert "path 1.2" in tab.inner_text("#parallel [data-part=tree]")
        tab.close()


def test_a_server_that_is_not_there_any_more(browser: Any) -> None:
    with answering({}, 200, "", live()) as url:
        tab = browser.new_page()
        tab.goto(f"{url}/multiverse/view")
    tab.click("#go")
    wait(tab, "failed")
    assert tab.get_by_role("alert").inner_text().endswith("is the server still up?")
    tab.close()


def test_a_wrong_key_of_a_server_elsewhere(browser: Any) -> None:
    """Its refusal has no header that lets a page of elsewhere read it."""
    with answering({}, 401, "") as url, answering({}, 200, "", live(url)) as here:
        tab = browser.new_page()
        tab.goto(here)
        tab.fill("#key", "wrong")
        tab.click("#go")
        wait(tab, "failed")
        said = tab.get_by_role("alert").inner_text()
        assert url in said
        assert "is the API key right" in said
        tab.close()


def test_a_server_elsewhere_below_a_path(tab: Any) -> None:
    """The page's policy lets it speak to all of that server."""
    open_to_all = {"Access-Control-Allow-Origin": "*"}
    with (
        answering(open_to_all, 200, ANSWER) as url,
        answering({}, 200, "", live(f"{url}/models/tiny")) as here,
    ):
        tab.goto(here)
        tab.click("#go")
        wait(tab, "done")
        assert tab.locator("#parallel [data-path]").count() == 3


def test_an_answer_can_be_stopped(tab: Any) -> None:
    held: list[Any] = []
    serve(tab, held.append)
    tab.click("#go")
    tab.wait_for_function("() => !document.getElementById('stop').disabled")
    tab.click("[data-part=wider] >> nth=0")  # nothing is there to zoom yet
    tab.click("#stop")
    wait(tab, "stopped")
    assert tab.get_by_role("alert").count() == 0


def test_one_answer_at_a_time(tab: Any) -> None:
    """Ctrl+Enter during an answer asks nothing; after it, it asks again."""
    held: list[Any] = []
    asked = serve(tab, held.append)
    for _ in range(3):
        tab.press("#question", "Control+Enter")
    tab.wait_for_timeout(200)
    assert len(asked) == 1
    held[0].fulfill(body=ANSWER)
    wait(tab, "done")
    tab.press("#question", "Control+Enter")
    wait(tab, "writing …")
    assert len(asked) == 2
    held[1].fulfill(body=ANSWER)
    wait(tab, "done")


@pytest.mark.parametrize(
    ("field", "value"),
    [("#question", " \n "), ("#key", "schlüssel"), ("#key", "a b"), ("#most", "")],
)
def test_what_the_form_refuses(field: str, value: str, browser: Any) -> None:
    """It asks nothing, and what an earlier question came to goes away."""
    tab = browser.new_page()
    asked = serve(tab, lambda route: route.fulfill(status=500, body="broken"))
    tab.click("#go")
    wait(tab, "failed")
    before = tab.input_value(field)
    tab.fill(field, value)
    tab.click("#go")
    wait(tab, "")
    assert tab.get_by_role("alert").count() == 0
    assert len(asked) == 1
    tab.fill(field, before)
    tab.click("#go")
    wait(tab, "failed")
    assert len(asked) == 2
    tab.close()


def test_any_temperature(tab: Any) -> None:
    asked = serve(tab, lambda route: route.fulfill(body=ANSWER))
    tab.fill("#temperature", "0.65")
    tab.click("#go")
    wait(tab, "done")
    assert asked[0]["body"]["temperature"] == 0.65
