"""The live page on the server: ``GET /multiverse/view``.

Target: ``_setup_and_run_http_server``, the last step before requests are taken; worker processes
add the route where they are armed (``http_worker.py``). The page is SGLang's to protect: with
``--api-key`` it asks for the key like every other route. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import os
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from ..view.live import PATH, headers, live
from .hooks import Hook

#: Tells workers that the page is not wanted; set by ``--multiverse-no-view``.
NO_VIEW = "SGLANG_MULTIVERSE_NO_VIEW"


def install(app: Any) -> None:
    """Add the route to SGLang's application, once, unless it is not wanted."""
    from fastapi.responses import HTMLResponse

    if os.environ.get(NO_VIEW) or any(getattr(route, "path", "") == PATH for route in app.routes):
        return

    async def page() -> HTMLResponse:
        return HTMLResponse(live(), headers=headers())

    app.add_api_route(PATH, page, methods=["GET"], include_in_schema=False)


def _before_serving(server_args: Any, *args: Any, **kwargs: Any) -> None:
    from sglang.srt.entrypoints.http_server import app

    install(app)


HOOKS = (
    Hook(
        "sglang.srt.entrypoints.http_server._setup_and_run_http_server",
        HookType.BEFORE,
        _before_serving,
        ("server_args",),
    ),
)

__all__ = ["HOOKS", "NO_VIEW", "install"]
