"""Stream an answer and say of every line which path it belongs to, while paths run side by side.

multiverse serve --port 30000 --max-total-tokens 6000     # in another terminal
python examples/stream_paths.py --url http://127.0.0.1:30000
"""

import argparse
import sys
from collections import defaultdict

from openai import APIError, OpenAI

QUESTION = "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?"
PARALLEL = "Think step by step and in parallel before answering."

#: Text of each path that has not ended in a line break yet.
unfinished: dict[str, str] = defaultdict(str)


def say(path: str, line: str) -> None:
    print(f"{path or 'trunk':>7} │ {line}", flush=True)


def flush(path: str) -> None:
    if rest := unfinished.pop(path, ""):
        say(path, rest)


def show(event: dict) -> None:
    """One event; docs/serving.md lists their fields."""
    path = event["path"]
    if event["kind"] == "text":
        *lines, unfinished[path] = (unfinished[path] + event["text"]).split("\n")
        for line in lines:
            say(path, line)
        return
    flush(path)
    if event["kind"] == "fork":
        labels = ", ".join(f"{one['path']} ({one['label']})" for one in event["paths"])
        say(path, f"── forks at position {event['position']} into {labels}")
    elif event["kind"] == "close":
        say(path, f"── closes at position {event['position']}")
    elif event["kind"] == "join":
        say(path, f"── joins, and goes on at position {event['position']}")
    elif event["kind"] == "end":
        parallelism = event["figures"].get("multiverse_parallelism", 1.0)
        say(path, f"── ends: {event['finish_reason']}, {parallelism:.2f}× parallel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="of a running server")
    parser.add_argument("--question", default=QUESTION)
    options = parser.parse_args()

    client = OpenAI(base_url=f"{options.url}/v1", api_key="none")
    chunks = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": f"{options.question} {PARALLEL}"}],
        temperature=0,
        max_tokens=1000,
        stream=True,
        extra_body={"custom_params": {"multiverse": {"events": True}}},
    )
    told = False
    for chunk in chunks:
        # Chunks with events have no choices; the others hold the same text in canonical order.
        for event in (chunk.model_extra or {}).get("multiverse", {}).get("events", []):
            told = True
            show(event)
    if not told:
        sys.exit("the server told no events: is it started with --plugin multiverse?")


if __name__ == "__main__":
    try:
        main()
    except APIError as error:  # no server, or one that refuses
        sys.exit(f"error: {error}\n  --url names the server; multiverse serve starts one")
