"""Curate a parallel corpus of sequential chains, with recorded replies in the teacher's place.

    python examples/curate.py --out runs/curated

A small server answers over HTTP what the files in ``cassettes/`` hold; ``multiverse curate`` cannot
tell it from a real endpoint. For one, set ``base_url``, ``model`` and ``api_key_env`` below, give
``source`` files of your own, and leave the server out. ``multiverse curate run --record DIR`` made
the cassettes; their replies are hand-written, the first one to ``frame`` in ``two-sums`` wrongly.
"""

import argparse
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from sglang_multiverse.data_pipeline.teacher.cassette import Replied, completion, load_all
from sglang_multiverse.data_pipeline.teacher.task import Task, question_of

CASSETTES = {one.question: one for one in load_all(Path(__file__).parent / "cassettes")}


class Teacher(BaseHTTPRequestHandler):
    """The reply that was recorded for the question, the task and the attempt of a request."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = [message["content"] for message in request["messages"]]
        task = Task.read(texts[-1])
        if task is None:  # the request before all others, which shows that the endpoint is right
            reply = Replied("ready")
        else:
            recorded = CASSETTES[question_of("\n".join(texts))].replies[task.name]
            reply = recorded[task.attempt - 1]
        answer = completion(request["model"], reply, "".join(texts))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


def multiverse(*arguments: object) -> None:
    print("\n$ multiverse", *arguments, flush=True)
    command = [sys.executable, "-m", "sglang_multiverse.cli", *map(str, arguments)]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/curated"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    teacher = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    threading.Thread(target=teacher.serve_forever, daemon=True).start()
    rows = [json.dumps(one.record().columns) for one in CASSETTES.values()]
    chains, config, store = out / "chains.jsonl", out / "curate.yaml", out / "store.sqlite"
    chains.write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings = {
        "source": {"files": [str(chains)]},
        "endpoint": {"base_url": f"http://127.0.0.1:{teacher.server_port}/v1", "model": "teacher"},
        "sampling": {"max_tokens": 4000},
        "prices": {"input": 1.0, "output": 8.0},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    multiverse("curate", "run", config, "--store", store)
    multiverse("curate", "status", "--store", store)
    multiverse("curate", "export", out / "corpus", "--store", store, "--no-plots")
    (data,) = (out / "corpus" / "data").glob("*.parquet")
    multiverse("curate", "check", data)  # the gates alone, over any corpus
    teacher.shutdown()


if __name__ == "__main__":
    main()
