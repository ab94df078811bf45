"""A server of chat completions that knows the answers to the tiny models' questions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.evaluation.tasks import BOXED
from sglang_multiverse.tiny import machines

#: Fields that a strict server knows.
OPENAI = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop"}
#: What is done with the n-th request, from 0: None answers it.
Fault = Callable[[int], int | None]


class Fake:
    """Requests that came, and what the server is to do.

    Attributes:
        delay: seconds before each answer.
        key: one that each request has to bring, where there is one.
        strict: whether fields are refused that OpenAI's interface has not.
    """

    def __init__(self, wrong: Callable[[dict[str, Any]], bool], fault: Fault):
        self.wrong, self.fault = wrong, fault
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.url, self.delay = "", 0.0
        self.key, self.strict = "", False

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = body["messages"][-1]["content"]
        parallel = asked.endswith(MULTIVERSE.parallel_prompt)
        question = machines.understand(
            asked.removesuffix(MULTIVERSE.parallel_prompt)
            .removesuffix(MULTIVERSE.sequential_prompt)
            .strip()
            .removesuffix(BOXED)
            .strip()
        )
        text = machines.solution(question, "parallel" if parallel else "sequential")
        if self.wrong(body):
            text = text.rpartition("Answer:")[0] + "Answer: Z 99"
        tokens = len(text.split())
        meta: dict[str, Any] = {"e2e_latency": 0.5}
        if parallel:
            meta |= {
                "multiverse_critical_path_tokens": tokens // 2,
                "multiverse_forks": 0 if body["seed"] % 2 else 1,
                "multiverse_net_parallelism": 1.5,
            }
        return {
            "id": "x",
            "model": "fake",
            "choices": [
                {
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                    "meta_info": meta,
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": tokens},
        }


@contextmanager
def serving(
    wrong: Callable[[dict[str, Any]], bool] = lambda body: False,
    fault: Fault = lambda number: None,
) -> Iterator[Fake]:
    """A server as long as the context lasts."""
    fake = Fake(wrong, fault)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if fake.key and self.headers["Authorization"] != f"Bearer {fake.key}":
                self.say(401, {"error": {"message": "no key"}})
            elif self.path == "/v1/models":
                self.say(200, {"data": [{"id": "fake"}]})
            else:
                self.say(200, {"version": "0.0", "model_path": "/fake", "device": "none"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                number = len(fake.requests)
                fake.requests.append(body)
            time.sleep(fake.delay)
            status = fake.fault(number)
            if fake.key and self.headers["Authorization"] != f"Bearer {fake.key}":
                status = 401
            if fake.strict and (unknown := sorted(set(body) - OPENAI)):
                said = f"Unrecognized request arguments supplied: {', '.join(unknown)}"
                self.say(400, {"error": {"message": said}})
            elif status is not None:
                self.say(status, {"error": {"message": f"fault {status}"}})
            else:
                self.say(200, fake.answer(body))

        def say(self, status: int, body: Any) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            with suppress(BrokenPipeError):  # a client that was killed
                self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
