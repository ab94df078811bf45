"""The servers that are compared: same weights, same flags, with and without the plugin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..server import Server
from .tell import Tell

#: Names of the ways a text is served, in the order of the tables' columns.
WAYS = ("stock", "client", "plugin", "multiverse")
BACKEND = "multiverse"
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

    ``client`` is served by ``stock``. Its log stays in ``server.log_path``.
    """
    extra = [*_FLAGS, "--max-total-tokens", str(tokens), *flags]
    plugin = name in ("plugin", "multiverse")
    if plugin:
        extra += _PLUGIN_FLAGS
    if name == "multiverse":
        extra += ["--attention-backend", BACKEND]
    tell(f"starting the {name} server …")
    with Server(model, flags=extra, plugin=plugin) as server:
        yield server


def backend_registered() -> bool:
    """Whether ``--attention-backend multiverse`` is there to serve with."""
    import argparse

    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs

    load_plugins()
    if BACKEND in ATTENTION_BACKENDS:
        return True
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    choices = parser._option_string_actions["--attention-backend"].choices
    return choices is not None and BACKEND in choices
