"""A file of questions in, a file of answers out, many at a time.

    python examples/batch.py runs/answers.jsonl                        # starts a server for it
    python examples/batch.py runs/answers.jsonl --url http://127.0.0.1:30000
    python examples/batch.py runs/answers.jsonl --questions mine.txt   # one a line

A run that was cut goes on where it stopped: questions that the file of answers holds are not asked
again. A question that the server refuses is said, and the others go on.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from urllib.error import HTTPError

from sglang_multiverse.server import Endpoint, Server, ServerError
from sglang_multiverse.tiny import MODEL_DIR, task

PARALLEL = "Think step by step and in parallel before answering."


def ask(server: Endpoint, question: str) -> dict | None:
    """One answer and its figures; None if the server refuses the question."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"{question} {PARALLEL}"}],
        "temperature": 0,
        "max_tokens": 1000,
        "return_meta_info": True,
    }
    try:
        choice = server.request("/v1/chat/completions", body)["choices"][0]
    except ServerError as error:
        if not isinstance(error.__cause__, HTTPError):
            raise  # there is no server any more
        print(f"refused: {question[:60]!r}: {error}"[:300], file=sys.stderr)
        return None
    figures = {k: v for k, v in choice["meta_info"].items() if k.startswith("multiverse_")}
    return {"question": question, "answer": choice["message"]["content"], **figures}


def answered(path: Path) -> set[str]:
    """Questions that the file holds. A last line that was cut is taken out, to be asked again."""
    path.touch()
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        path.write_bytes(whole)
    return {json.loads(line)["question"] for line in whole.splitlines()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("answers", type=Path)
    parser.add_argument("--questions", type=Path, help="one a line; the tiny model's own if left")
    parser.add_argument("--url", help="of a running server; without it one is started")
    parser.add_argument("--at-a-time", type=int, default=16)
    options = parser.parse_args()

    if options.questions:
        lines = options.questions.read_text(encoding="utf-8").split("\n")
        questions = list(dict.fromkeys(filter(None, map(str.strip, lines))))
    else:
        questions = [str(problem) for problem in islice(task.generate(seed=1, split="test"), 24)]
    options.answers.parent.mkdir(parents=True, exist_ok=True)
    done = answered(options.answers)
    left = [question for question in questions if question not in done]
    if not left:
        print(f"nothing to ask: {options.answers} holds every question")
        return
    where = nullcontext(Endpoint(options.url)) if options.url else Server(MODEL_DIR)
    refused = 0
    with (
        options.answers.open("a", encoding="utf-8") as file,
        where as server,
        ThreadPoolExecutor(options.at_a_time) as pool,
    ):
        for answer in pool.map(lambda question: ask(server, question), left):
            if answer is None:
                refused += 1
                continue
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
            file.flush()
    print(f"{len(left)} asked, {len(questions) - len(left)} answered before: {options.answers}")
    if refused:
        sys.exit(f"{refused} refused")


if __name__ == "__main__":
    try:
        main()
    except (ServerError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
