"""The page that asks a server and draws the answer while it comes."""

from __future__ import annotations

from urllib.parse import urlsplit

from .page import assemble, source

#: Where a server with the plugin has it.
PATH = "/multiverse/view"

TITLE = "multiverse view"

#: What the page asks unless it is told otherwise: a question of the tiny model's kind.
QUESTION = "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?"


def live(server: str = "", model: str = "default") -> str:
    """The page.

    Args:
        server: the address of the server, where the page comes from elsewhere; such a server must
            allow other origins, as SGLang's does.
        model: the name that requests give; SGLang takes any.
    """
    data = {"server": server.rstrip("/"), "model": model, "question": QUESTION}
    parts = urlsplit(server)  # a policy takes a path for a file's, not for a folder's
    return assemble(
        data,
        TITLE,
        source("request.js") + source("live.js"),
        template="live.html",
        connect=f"{parts.scheme}://{parts.netloc}" if server else "'self'",
    )


def headers() -> dict[str, str]:
    """What the page is sent with, beside the policy in it."""
    return {
        "Content-Security-Policy": "frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


__all__ = ["PATH", "TITLE", "headers", "live"]
