"""``multiverse watch``: the live page of a server."""

from __future__ import annotations

import http.client
import http.server
import re
import threading
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from urllib.parse import urlsplit

import typer

from ..view.live import PATH, TITLE, headers, live
from .refusal import fail


def command(
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server, as http://127.0.0.1:30000 [default: start one of the tiny "
            "model on this machine, until Ctrl-C]."
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser, too.")
    ] = False,
) -> None:
    """Ask a server in the browser, and watch the answer fork, run side by side and join.

    Prints the address of the page. A server that wants an API key protects its page as well; then
    this command serves it, and the key goes into the page's field.
    """
    with _server(url) as at:
        status = _status(at)
        if status == 200:
            _tell(at + PATH, browser)
            if url is None:
                _wait()
        elif status in (401, 403):
            if "[" in at:
                fail(
                    f"{at} wants a key, and a page's policy cannot name an IPv6 address\n"
                    "  give its host name: --url http://HOST:PORT"
                )
            with _local(at) as page:
                _tell(page, browser)
                _wait()
        elif status == 404:
            fail(
                f"{at} has no {PATH}\n"
                "  start it with --plugin multiverse, and without --multiverse-no-view"
            )
        else:
            fail(f"{at}{PATH} answers HTTP {status}")


def _tell(page: str, browser: bool) -> None:
    typer.echo(page)
    if browser and not webbrowser.open(page):
        typer.echo("no browser opened; follow the address above", err=True)


def _wait() -> None:
    typer.echo("Ctrl-C ends it", err=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("", err=True)


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    """The address of the server that was named, or of one that lives as long as the block."""
    if url is not None:
        yield _address(url)
        return
    from rich.console import Console

    from ..server import Server, ServerError
    from ..tiny import MODEL_DIR
    from .refusal import need

    need("serve", "transformers", "sglang")
    console = Console(stderr=True)
    try:
        with (
            console.status("starting SGLang …") as status,
            Server(
                MODEL_DIR, on_wait=lambda s: status.update(f"starting SGLang … {s:.0f} s")
            ) as server,
        ):
            status.stop()
            yield server.url
    except ServerError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


def _address(url: str) -> str:
    """What ``--url`` names, checked: it goes into requests and into the policy of the page."""
    at = url.strip().rstrip("/")
    if not _names_a_server(at):
        fail(f"--url {url!r} is no URL of a server; write http://HOST:PORT")
    if at.endswith("/v1"):
        fail(f"--url {url}: leave out /v1; the page stands beside it, not below")
    return at


def _names_a_server(at: str) -> bool:
    try:
        parts = urlsplit(at)
        return bool(_PLAIN.fullmatch(at) and parts.hostname and parts.port != 0)
    except ValueError:  # of the port, or of brackets
        return False


#: Signs of an address without a query, a fragment, a password or anything that ends a policy.
_PLAIN = re.compile(r"https?://[A-Za-z0-9.:_\[\]-]+(?:/[A-Za-z0-9._~/-]*)?")


def _status(at: str) -> int:
    """Of the request for the live page; 404 where another page stands."""
    try:
        with urllib.request.urlopen(at + PATH, timeout=10) as answer:
            ours = f"<title>{TITLE}</title>".encode() in answer.read()
            return int(answer.status) if ours else 404  # some servers have a page at any address
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException) as error:
        fail(f"no server answers at {at}: {error}\n  is it up? multiverse serve starts one")


@contextmanager
def _local(server: str) -> Iterator[str]:
    """The page of ``server``, served on this machine; yields its address."""
    body = live(server).encode()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers().items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing: the terminal is the user's."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
