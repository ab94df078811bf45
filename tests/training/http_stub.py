"""An HTTP server that answers what a test says, for servers that SGLang would not play."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: ``answer(path, body)`` returns a status and what goes out as JSON; the body of GET is None.
Answer = Callable[[str, Any], tuple[int, Any]]


def answering() -> Iterator[Callable[[Answer], str]]:
    """``serve(answer)`` starts one and returns its address; for a fixture."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(answer(self.path, None))

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                self._say(answer(self.path, json.loads(self.rfile.read(size))))

            def _say(self, answered: tuple[int, Any]) -> None:
                status, said = answered
                text = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()
