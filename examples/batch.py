"""A file of questions in, a file of answers out, many at a time.

    python examples/batch.py runs/answers.jsonl                        # starts a server for it
    python examples/batch.py runs/answers.jsonl --url http://127.0.0.1:30000
    python examples/batch.py runs/answers.jsonl --questions mine.txt   # one a line

A run that was cut goes on where it stopped: questions that the file of answers holds are not asked
again.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

from sglang_multiverse.server import Endpoint, Server
from sglang_multiverse.tiny import MODEL_DIR, task

PARALLEL = "Think step by step and in parallel before answering."


def ask(server: Endpoint, question: str) -> dict:
    """One answer and its figures."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"{question} {PARALLEL}"}],
        "temperature": 0,
        "max_tokens": 1000,
        "return_meta_info": True,
    }
    choice = server.request("/v1/chat/completions", body)["choices"][0]
    figures = {k: v for k, v in choice["meta_info"].items() if k.startswith("multiverse_")}
    return {"question": question, "answer": choice["message"]["content"], **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("answers", type=Path)
    parser.add_argument("--questions", type=Path, help="one a line; the tiny model's own if left")
    parser.add_argument("--url", help="of a running server; without it one is started")
    parser.add_argument("--at-a-time", type=int, default=16)
    options = parser.parse_args()

    if options.questions:
        questions = options.questions.read_text(encoding="utf-8").splitlines()
    else:
        questions = [str(problem) for problem in islice(task.generate(seed=1, split="test"), 24)]
    options.answers.parent.mkdir(parents=True, exist_ok=True)
    with options.answers.open("a+", encoding="utf-8") as file:
        file.seek(0)
        done = {json.loads(line)["question"] for line in file}
        left = [question for question in questions if question not in done]
        if not left:
            print(f"nothing to ask: {options.answers} holds every question")
            return
        where = nullcontext(Endpoint(options.url)) if options.url else Server(MODEL_DIR)
        with where as server, ThreadPoolExecutor(options.at_a_time) as pool:
            for answer in pool.map(lambda question: ask(server, question), left):
                file.write(json.dumps(answer, ensure_ascii=False) + "\n")
                file.flush()
    print(f"{len(left)} asked, {len(questions) - len(left)} answered before: {options.answers}")


if __name__ == "__main__":
    main()
