"""Events → one self-contained page: SVG and script, nothing fetched.

The page has two parts: a model fed with events (``timeline.js``) and its renderer (``render.js``,
with ``elements.js`` and ``keyboard.js``); one more script starts them on a source of events, here
the events that the page carries. What a model wrote is hostile: it enters as JSON that cannot end
its element, becomes text nodes alone, and the page's policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from ..text import encodable
from .lanes import Timeline

_SCRIPTS = ("timeline.js", "elements.js", "keyboard.js", "render.js")
_SLOT = re.compile(r"\{\{(\w+)\}\}")


@cache
def source(name: str) -> str:
    """The text of a file of this room."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def page(timeline: Timeline, title: str, issues: Sequence[str] = ()) -> str:
    """The page of a finished text: it carries the events of ``timeline``.

    Args:
        title: what the page is called, plain text.
        issues: departures from the canonical form, one line each.
    """
    data = {"events": timeline.events, "issues": list(issues)}
    return assemble(data, title, source("embedded.js"))


def assemble(
    data: Mapping[str, Any],
    title: str,
    start: str,
    *,
    template: str = "page.html",
    connect: str = "'none'",
) -> str:
    """The page around ``data``, which the script ``start`` finds in the element ``#data``.

    Args:
        start: a script that feeds a ``Timeline`` and draws it with a ``View``.
        connect: what the page may speak to, a source of a content security policy.
    """
    script = "\n".join([*map(source, _SCRIPTS), start])
    style = source("style.css")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
    policy += f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    slots = {
        "policy": policy,
        "title": html.escape(_one_line(title)),
        "style": style,
        "view": source("view.html"),
        "data": embedded(data),
        "script": script,
    }
    return _SLOT.sub(lambda slot: slots[slot[1]], source(template))


def embedded(data: Any) -> str:
    """``data`` as JSON that can stand in a script element: no ``<``, ``>``, ``&``, only ASCII."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _one_line(text: str) -> str:
    return " ".join(encodable(text).replace("\0", " ").split()) or "trace"


__all__ = ["assemble", "embedded", "page", "source"]
