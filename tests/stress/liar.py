"""An HTTP server with SGLang's paths that answers what a test tells it to: what the attacks must
notice cannot be had from a server that works."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: ``(path, body)`` → status and JSON value, or a list of events to stream.
Say = Callable[[str, Any], "tuple[int, Any] | list[Any]"]


@contextmanager
def serving(say: Say) -> Iterator[str]:
    """URL of a server that answers with ``say``; a number among events is a pause, in seconds."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                self._answer(json.loads(raw) if raw else None)
            except ValueError:
                self._answer(raw)

        def _answer(self, body: Any) -> None:
            said = say(self.path, body)
            if isinstance(said, list):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for event in said:
                    if isinstance(event, float):
                        time.sleep(event)
                        continue
                    self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                    self.wfile.flush()
                self.wfile.write(b"data: [DONE]\n\n")
                return
            status, value = said
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def final(ids: list[int], **meta: Any) -> dict[str, Any]:
    """An answer of ``/generate``."""
    told = {
        "id": "a",
        "finish_reason": {"type": "stop"},
        "completion_tokens": len(ids),
        "output_token_logprobs": [[-0.5, token, None] for token in ids],
        **meta,
    }
    return {"text": " ".join(map(str, ids)), "output_ids": ids, "meta_info": told}
