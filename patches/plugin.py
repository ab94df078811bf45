"""The entry point SGLang calls in each of its processes.

In the process a user starts it adds ``--plugin`` and its options, and nothing else. In the
processes a server with ``--plugin multiverse`` starts it arms the scheduler's hooks. Without the
flag an installed package changes nothing.
"""

from __future__ import annotations

import os
import sys


def register() -> None:
    """Called by ``sglang.srt.plugins.load_plugins`` before anything is set up.

    Raises:
        SystemExit: this process was to be armed and cannot be. (SGLang swallows exceptions here.)
    """
    from . import arguments, attention
    from .answers import parsers
    from .hooks import PatchError, apply
    from .registry import scheduler_hooks, start_hooks, tokenizer_hooks

    try:
        apply(start_hooks())
        _extend_engine()
        parsers.offer()
        attention.offer()
        if os.environ.get(arguments.ACTIVE):
            apply(tokenizer_hooks())
        if os.environ.get(arguments.ACTIVE) and _schedules():
            attention.register()
            apply(scheduler_hooks())
    except PatchError as error:
        if os.environ.get(arguments.ACTIVE) or any(
            "multiverse" in argument for argument in sys.argv
        ):
            raise SystemExit(str(error)) from error
        raise


def _extend_engine() -> None:
    """``Engine`` builds its arguments through this class attribute, made for such overrides."""
    engine = sys.modules.get("sglang.srt.entrypoints.engine")
    if engine is not None:  # it has loaded the plugins itself, or nobody uses it here
        from .arguments import engine_server_args

        engine.Engine.server_args_class = staticmethod(engine_server_args)


def _schedules() -> bool:
    """Whether this process runs a scheduler: its module is imported before plugins load."""
    return "sglang.srt.managers.scheduler" in sys.modules
