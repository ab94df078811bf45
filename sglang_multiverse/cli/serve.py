"""``multiverse serve``: ``sglang serve --plugin multiverse``, on a CPU too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tiny import MODEL_DIR
from ..view.live import PATH
from .refusal import fail, need

if TYPE_CHECKING:
    from ..endpoint import Endpoint
    from ..guarded import Guarded

#: SGLang's defaults.
HOST, PORT = "127.0.0.1", "30000"
#: Seconds to finish the requests under way in, after SIGTERM or Ctrl-C.
GRACE = 30.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
_MOST_TOKENS = 1024
_QUESTION = (
    "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C? "
    "Think step by step and in parallel before answering."
)


def command(
    context: typer.Context,
    model_path: Annotated[
        str | None,
        typer.Option("--model-path", "--model", help="Checkpoint; the tiny model without it."),
    ] = None,
) -> None:
    """Serve a checkpoint with fork and join; every other flag goes to `sglang serve`.

    Where no accelerator is found it adds the flags SGLang needs on a CPU. It says its URL when it
    answers, and ends with all of its processes when it is told to (twice: at once). Exit code 2:
    nothing was started, and why.
    """
    given = context.args
    model = model_path or str(MODEL_DIR)
    host, port = _value(given, "--host", HOST), _value(given, "--port", PORT)
    _check(model, given, host, port)
    from ..devices import memory_flags, platform_env, platform_flags, server_python

    device = _accelerator()
    flags = ["--model-path", model, "--plugin", "multiverse", *platform_flags(device)]
    flags += [*memory_flags(device, given), *given]
    argv = [*server_python(), "-m", "sglang.launch_server", *flags]
    url = f"http://{_ANY.get(host, host)}:{port}"
    raise typer.Exit(_run(argv, {**os.environ, **platform_env(device)}, url, model))


def _check(model: str, given: list[str], host: str, port: str) -> None:
    from . import preflight

    need("serve", "sglang")
    tokenizer = _value(given, "--tokenizer-path", "") or None
    dummy = _value(given, "--load-format", "auto") in ("dummy", "remote", "remote_instance")
    preflight.refuse(
        [
            *preflight.operating_system(),
            *preflight.checkpoint(model, tokenizer, weights=not dummy),
            *preflight.port(host, port),
            *preflight.folders(),
        ]
    )


def _value(given: list[str], flag: str, default: str) -> str:
    """What ``flag`` is set to, as argparse reads it: the last one wins."""
    found = default
    for i, word in enumerate(given):
        if word == flag and i + 1 < len(given):
            found = given[i + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def _accelerator() -> str | None:
    """In a process of its own: this one lives as long as the server, and torch is large."""
    from ..devices import server_python

    code = "from sglang_multiverse.devices import accelerator as a; print(a() or '')"
    argv = [*server_python(), "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        fail(f"torch cannot look for an accelerator: {last}\n  `multiverse doctor` says more")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else None


def _run(argv: list[str], env: dict[str, str], url: str, model: str) -> int:
    """Until the server ends; its exit status, 0 if it was told to end."""
    from ..guarded import Guarded, new_folder, remove

    folder = new_folder()
    told: list[int] = []
    server: Guarded | None = None

    def stop(number: int, frame: object) -> None:
        told.append(number)
        if server is not None:
            server.ask_to_stop()

    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, stop)
    try:
        server = Guarded(argv, env, folder, grace=GRACE)
        if told:
            server.ask_to_stop()
        threading.Thread(target=_announce, args=(server, url, model), daemon=True).start()
        status = server.wait()
    finally:
        if server is not None:
            server.stop()
        remove(folder)
    return 0 if told else status


def _announce(server: Guarded, url: str, model: str) -> None:
    """When the server answers: where, and a request it can serve."""
    from ..endpoint import Endpoint

    endpoint = Endpoint(url)
    while server.poll() is None:
        if endpoint.answers():
            typer.echo(f"\nmultiverse: serving {model} at {url}\n\n{example(url, model)}\n")
            if _has_page(endpoint):
                typer.echo(f"to watch it fork: {url}{PATH}\n")
            return
        time.sleep(0.5)


def _has_page(endpoint: Endpoint) -> bool:
    """Whether the live page is there, for whoever has no key."""
    from ..endpoint import ServerError

    try:
        endpoint.request(PATH, raw=True, timeout=5)
    except ServerError:
        return False
    return True


def example(url: str, model: str) -> str:
    """A ``curl`` that fits the model's context."""
    from .preflight import context_length

    context = context_length(model)
    body = {
        "model": Path(model).name,
        "messages": [{"role": "user", "content": _QUESTION}],
        "temperature": 0,
        "max_tokens": min(_MOST_TOKENS, context // 2) if context else _MOST_TOKENS,
        "return_meta_info": True,
    }
    return (
        f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '"
        f"{json.dumps(body)}'"
    )
