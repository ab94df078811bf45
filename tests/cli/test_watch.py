"""``multiverse watch`` on servers that have the page, want a key, or have none."""

from __future__ import annotations

import http.server
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app, watch
from sglang_multiverse.view.live import PATH, live


@contextmanager
def server(status: int, body: str = "") -> Iterator[str]:
    """A server that answers everything with ``status`` and ``body``."""

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def run(url: str) -> Any:
    return CliRunner().invoke(app, ["watch", "--url", url])


def test_a_server_with_the_page() -> None:
    with server(200, live()) as url:
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
    ("status", "says"),
    [
        (404, "--multiverse-no-view"),
        (200, "--multiverse-no-view"),  # any page at any address
        (500, "answers HTTP 500"),
    ],
)
def test_a_server_without_it(status: int, says: str) -> None:
    with server(status) as url:
        done = run(url)
    assert done.exit_code == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost", "is no URL"),
        ("http://127.0.0.1:abc", "is no URL"),
        ("http://127.0.0.1:0", "is no URL"),
        ("http://127.0.0.1:99999", "is no URL"),
        ("http://127.0.0.1:30000/a b", "is no URL"),
        ("http://a b:30000", "is no URL"),
        ("http://", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://user:secret@127.0.0.1:30000", "is no URL"),
        ("http://127.0.0.1:30000; script-src *", "is no URL"),
        ("http://127.0.0.1:30000?x=1", "is no URL"),
        ("http://\x1b[31m", r"'http://\x1b[31m' is no URL"),
        ("http://127.0.0.1:30000/v1/", "leave out /v1"),
        ("http://127.0.0.1:9", "no server answers"),
        ("http://" + "a" * 70 + ".test", "no server answers"),
    ],
)
def test_no_server(url: str, says: str) -> None:
    done = run(url)
    assert done.exit_code == 2
    assert says in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_a_server_that_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as talk:
                talk.recv(10_000)
                talk.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        done = run(f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert done.exit_code == 2
    assert "no server answers" in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_a_key_and_an_address_that_no_policy_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_status", lambda at: 401)
    done = run("http://[::1]:30000")
    assert done.exit_code == 2
    assert "--url http://HOST:PORT" in done.stderr


def test_a_page_may_speak_to_all_of_a_server_below_a_path() -> None:
    assert "connect-src http://a.test:1;" in live("http://a.test:1/models/tiny")
