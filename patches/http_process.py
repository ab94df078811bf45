"""What the process of the HTTP server, and each tokenizer worker, is armed with."""

from __future__ import annotations

from . import view
from .answers import events, parsers, stream, tokenizer
from .hooks import apply

HOOKS = (*stream.MAIN_HOOKS, *events.MAIN_HOOKS, *tokenizer.HOOKS, *view.HOOKS)


def arm() -> None:
    """Apply the hooks and install the parsers.

    Raises:
        PatchError: the installed SGLang is another than these were made for.
    """
    from .answers import tool_calls

    apply(HOOKS)
    parsers.install()
    tool_calls.install()
