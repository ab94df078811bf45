"""``multiverse serve``: ``sglang serve --plugin multiverse``, on a CPU too."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def command(
    context: typer.Context,
    model_path: Annotated[
        str | None, typer.Option(help="Checkpoint to serve; the tiny model without it.")
    ] = None,
) -> None:
    """Serve a checkpoint with fork and join; every other flag goes to `sglang serve`.

    Where no accelerator is found it adds the flags SGLang needs on a CPU.
    """
    from ..server import CPU_TOKENS, accelerator, platform_env, platform_flags
    from ..tiny import MODEL_DIR

    device = accelerator()
    given = context.args
    flags = ["--model-path", model_path or str(MODEL_DIR), "--plugin", "multiverse"]
    flags += platform_flags(device)
    if device is None and "--max-total-tokens" not in given:
        flags += ["--max-total-tokens", str(CPU_TOKENS)]
    command = [sys.executable, "-m", "sglang.launch_server", *flags, *given]
    os.execve(sys.executable, command, {**os.environ, **platform_env(device)})
