"""The HTTP application of a tokenizer worker, armed like the HTTP server's own process.

``--tokenizer-worker-num`` above 1 makes SGLang start worker processes that import the application
named by ``SGLANG_HTTP_SERVER_APP_PATH`` and load no plugins
(``entrypoints/http_server.py``, ``_setup_and_run_http_server``). ``arguments.py`` sets that
variable to this module. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from sglang.srt.entrypoints.http_server import app

from .http_process import arm
from .view import install

arm()
install(app)

__all__ = ["app"]
