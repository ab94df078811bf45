"""An OpenAI-compatible server over real HTTP that answers from cassettes, faults included.

A request is matched by the question it holds and the task line it ends with. One that matches
nothing gets HTTP 400 and is kept in ``unmatched``: a test that looks there fails loudly. Batches
are answered from the same cassettes, see :mod:`.replay_batches`.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sglang_multiverse.data_pipeline.teacher.caller import PREFLIGHT
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied, completion, load_all
from sglang_multiverse.data_pipeline.teacher.task import Task, question_of

from .replay_batches import Desk

CASSETTES = Path(__file__).parent / "cassettes"

#: Makes the reply to a request of which no cassette knows; None: nor do I.
Answerer = Callable[[str, Task], Replied | None]


@dataclass(frozen=True)
class Request:
    """One request: what it was for, how it was answered (HTTP status, 0 for a cut or a hang)."""

    item: str
    task: str
    attempt: int
    status: int
    usage: tuple[int, int] = (0, 0)


class ReplayServer(ThreadingHTTPServer):
    """``with ReplayServer(cassettes) as server: … server.url``

    Args:
        latency: seconds every reply takes.
        key: the bearer token it wants, None for any.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        cassettes: Iterable[Cassette] = (),
        *,
        latency: float = 0.0,
        key: str | None = None,
        answerer: Answerer | None = None,
        port: int = 0,
    ):
        super().__init__(("127.0.0.1", port), _Handler)
        self.by_question = {cassette.question: cassette for cassette in cassettes}
        self.latency = latency
        self.key = key
        self.answerer = answerer
        self.requests: list[Request] = []
        self.unmatched: list[str] = []
        self.preflights = 0
        self.preflight: dict[str, Any] | None = None  # a fault that the first request meets
        self.seen: Counter[tuple[str, str, int]] = Counter()
        self.desk = Desk()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> ReplayServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed leave broken connections behind."""

    def paid(self) -> list[Request]:
        """The requests that were answered with a completion."""
        return [request for request in self.requests if request.status == 200]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ReplayServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        if self.server.desk.serves(self.path):
            if self.welcome():
                self.server.desk.answer(self, "GET", self.path, b"")
            return
        self.reply(200, {"object": "list", "data": [{"id": "teacher", "object": "model"}]})

    def do_POST(self) -> None:
        length = self.headers["Content-Length"]
        raw = self.rfile.read(int(length)) if length else self.chunks()
        server = self.server
        if server.desk.serves(self.path):
            if self.welcome():
                server.desk.answer(self, "POST", self.path, raw)
            return
        with server.lock:
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            self.answer(json.loads(raw))
        finally:
            with server.lock:
                server.in_flight -= 1

    def answer(self, request: dict[str, Any]) -> None:
        server = self.server
        if not self.welcome():
            return
        texts = [message["content"] for message in request["messages"]]
        if texts == [PREFLIGHT]:
            with server.lock:
                server.preflights += 1
            if server.preflight is not None:
                self.fail(server.preflight)
                return
            self.reply(200, completion(request["model"], Replied("ready"), texts[0]))
            return
        task = Task.read(texts[-1])
        question = question_of("\n".join(texts))
        cassette = server.by_question.get(question or "")
        replied = self.find(cassette, question, task)
        if task is None or replied is None:
            known = f"item {cassette.name!r}" if cassette else f"question {question!r}"
            reason = f"no cassette answers {task} of {known}"
            with server.lock:
                server.unmatched.append(reason)
            self.reply(400, {"error": {"message": reason, "code": "unmatched"}})
            return
        item = cassette.name if cassette else question or ""
        with server.lock:
            turn = (item, task.name, task.attempt)
            seen = server.seen[turn]
            server.seen[turn] += 1
        time.sleep(server.latency)
        fault = replied.faults[seen] if seen < len(replied.faults) else None
        if fault is not None:
            server.requests.append(Request(*turn, fault.get("status", 0)))
            self.fail(fault)
            return
        answered = completion(request["model"], replied, "".join(texts))
        usage = answered["usage"]
        counts = (usage["prompt_tokens"], usage["completion_tokens"])
        server.requests.append(Request(*turn, 200, counts))
        self.reply(200, answered)

    def chunks(self) -> bytes:
        """A body of unknown length."""
        raw = b""
        while size := int(self.rfile.readline(), 16):
            raw += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return raw

    def welcome(self) -> bool:
        """Whether the key is right; told where it is not."""
        key = self.server.key
        if key is None or self.headers["Authorization"] == f"Bearer {key}":
            return True
        self.reply(401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
        return False

    def find(
        self, cassette: Cassette | None, question: str | None, task: Task | None
    ) -> Replied | None:
        if task is None or question is None:
            return None
        if cassette is not None:
            replies = cassette.replies.get(task.name, ())
            return replies[task.attempt - 1] if task.attempt <= len(replies) else None
        return self.server.answerer(question, task) if self.server.answerer else None

    def fail(self, fault: dict[str, Any]) -> None:
        if "hang" in fault:
            time.sleep(fault["hang"])
            self.close_connection = True
        elif "cut" in fault:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"id": "chatcmpl')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif "garbage" in fault:
            self.send(200, str(fault["garbage"]).encode(), {})
        else:
            headers = {}
            if "retry_after" in fault:
                headers["Retry-After"] = str(fault["retry_after"])
            if "location" in fault:
                headers["Location"] = fault["location"]
            error = {"message": "scripted fault", "code": fault.get("code")}
            self.send(fault["status"], json.dumps({"error": error}).encode(), headers)

    def reply(self, status: int, value: dict[str, Any]) -> None:
        self.send(status, json.dumps(value).encode(), {})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve cassettes over the OpenAI protocol.")
    parser.add_argument("folder", type=Path, nargs="?", default=CASSETTES)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument(
        "--rows", type=Path, help="Write the items to this file, as rows of a source, and end."
    )
    options = parser.parse_args()
    if options.rows is not None:
        rows = [json.dumps(one.record().columns) for one in load_all(options.folder)]
        options.rows.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return
    server = ReplayServer(load_all(options.folder), latency=options.latency, port=options.port)
    print(f"serving {len(server.by_question)} items at {server.url}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
