"""The servers that are compared: same weights, same flags, with and without the plugin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..attention.registry import NAME
from ..server import Server
from .tell import Tell

#: Names of the ways a text is served, in the order of the tables' columns.
WAYS = ("stock", "client", "plugin", "multiverse")
_FLAGS = (
    *("--dtype", "float32", "--enable-custom-logit-processor", "--random-seed", "1"),
    *("--max-running-requests", "512"),
)
_PLUGIN_FLAGS = ("--multiverse-max-branches", "none", "--multiverse-max-depth", "none")


@contextlib.contextmanager
def serving(
    name: str, model: Path, tokens: int, tell: Tell, *, flags: tuple[str, ...] = ()
) -> Iterator[Server]:
    """A server for one of :data:`WAYS` with room for ``tokens`` tokens of KV.

    ``client`` is served by ``stock``.
    """
    extra = [*_FLAGS, "--max-total-tokens", str(tokens), *flags]
    plugin = name in ("plugin", "multiverse")
    if plugin:
        extra += _PLUGIN_FLAGS
    if name == "multiverse":
        extra += ["--attention-backend", NAME]
    tell(f"starting the {name} server …")
    with Server(model, flags=extra, plugin=plugin) as server:
        yield server
