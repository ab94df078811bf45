"""``multiverse watch`` on servers that have the page, want a key, or have none."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app, watch
from sglang_multiverse.view.live import PATH


@contextmanager
def server(status: int) -> Iterator[str]:
    """A server that answers everything with ``status``."""

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def run(url: str) -> Any:
    return CliRunner().invoke(app, ["watch", "--url", url])


def test_a_server_with_the_page() -> None:
    with server(200) as url:
        done = run(url + "/")
        assert (done.exit_code, done.stdout) == (0, f"{url}{PATH}\n")


def test_a_server_that_wants_a_key_has_its_page_served_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page that is served may speak to that server and to no other."""
    found: list[str] = []

    def look() -> None:
        (address,) = found
        with urllib.request.urlopen(address, timeout=10) as answer:
            found.append(answer.read().decode())

    tell: Callable[[str, bool], None] = lambda page, browser: found.append(page)  # noqa: E731
    monkeypatch.setattr(watch, "_tell", tell)
    monkeypatch.setattr(watch, "_wait", look)
    with server(401) as url:
        assert run(url).exit_code == 0
    address, page = found
    assert address.startswith("http://127.0.0.1:")
    assert f"connect-src {url};" in page
    assert f'"server":"{url}"' in page
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)


@pytest.mark.parametrize(
    ("status", "says"), [(404, "--multiverse-no-view"), (500, "answers HTTP 500")]
)
def test_a_server_without_it(status: int, says: str) -> None:
    with server(status) as url:
        done = run(url)
    assert done.exit_code == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    ("url", "says"), [("localhost", "is no URL"), ("http://127.0.0.1:9", "no server answers")]
)
def test_no_server(url: str, says: str) -> None:
    done = run(url)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "Traceback" not in done.output
