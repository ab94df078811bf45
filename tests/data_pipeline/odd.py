"""An endpoint that answers oddly, at random by a seed, and a run against it.

    python -m tests.data_pipeline.odd [--items 1000] [--seed 0] [--batch]

Prints how many items were settled and how, and whether the store's books are the endpoint's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_multiverse.data_pipeline.pipeline import Finished, Run
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Record
from sglang_multiverse.data_pipeline.store.store import Store
from sglang_multiverse.data_pipeline.teacher.batch_caller import BatchCaller
from sglang_multiverse.data_pipeline.teacher.budget import Prices, most_input_tokens
from sglang_multiverse.data_pipeline.teacher.call import Message, Sampling
from sglang_multiverse.data_pipeline.teacher.caller import StoredCaller, preflight
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied
from sglang_multiverse.data_pipeline.teacher.collector import Batching
from sglang_multiverse.data_pipeline.teacher.transport import Endpoint, Transport

from .replay import ReplayServer, _Handler

#: Changes an ordinary completion.
Odd = Callable[[dict[str, Any]], Any]
MAX_TOKENS = 4000


def _content(change: Callable[[str], Any]) -> Odd:
    def odd(body: dict[str, Any]) -> Any:
        message = body["choices"][0]["message"]
        message["content"] = change(message["content"] or "")
        return body

    return odd


def _choice(**fields: Any) -> Odd:
    return lambda body: {**body, "choices": [{**body["choices"][0], **fields}]}


def _usage(value: Any) -> Odd:
    return lambda body: {**body, "usage": value}


def _without_usage(body: dict[str, Any]) -> Any:
    return {name: value for name, value in body.items() if name != "usage"}


#: The right answer, dressed up: whoever reads well accepts it.
DRESSED: dict[str, Odd] = {
    "parts": _content(lambda text: [{"type": "text", "text": text}]),
    "several parts": _content(
        lambda text: [{"type": "text", "text": half} for half in (text[:50], text[50:])]
    ),
    "part of another kind": _content(
        lambda text: [{"type": "reasoning", "summary": []}, {"type": "text", "text": text}]
    ),
    "fence": _content(lambda text: f"```text\n{text}\n```"),
    "fence after a preamble": _content(
        lambda text: f"Sure! Here is what you asked for:\n\n```\n{text}\n```\n\nLet me know!"
    ),
    "preamble": _content(lambda text: f"Certainly! Here it is:\n\n{text}"),
    "inline thought": _content(lambda text: f"<think>\nLet me see.\n</think>\n\n{text}"),
    "end of a thought": _content(lambda text: f"Let me see.\n</think>\n\n{text}"),
    "NUL": _content(lambda text: f"\x00{text}\x00"),
    "no usage": _without_usage,
    "null usage": _usage(None),
    "usage in words": _usage({"prompt_tokens": "many", "completion_tokens": 1, "total_tokens": 2}),
    "usage below zero": _usage({"prompt_tokens": -5, "completion_tokens": 1, "total_tokens": 2}),
    "usage of nulls": _usage(
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    ),
    "usage beyond all bounds": _usage(
        {"prompt_tokens": 10**30, "completion_tokens": 1, "total_tokens": 10**30 + 1}
    ),
    "no finish reason": _choice(finish_reason=None),
    "end of sequence": _choice(finish_reason="eos_token"),
}
#: Paid for, and no answer.
USELESS: dict[str, Odd] = {
    "half a character": _content(lambda text: text[:20] + "\ud83d" + text[20:]),
    "refusal in words": _content(lambda text: "I'm sorry, but I can't help with that."),
    "refusal": _choice(message={"role": "assistant", "content": None, "refusal": "No."}),
    "empty": _content(lambda text: ""),
    "blank": _content(lambda text: " \n "),
    "null": _content(lambda text: None),
    "other text": _content(lambda text: "The weather is fine. <Path> S1: </Parallel> \\boxed{"),
    "16 MiB": _content(lambda text: "S1: on and on\n" * (1 << 20)),
    "cut": lambda body: _choice(finish_reason="length")(_content(lambda t: t[: len(t) // 2])(body)),
    "filtered": _choice(finish_reason="content_filter"),
    "aborted": _choice(finish_reason="abort"),
    "broke off": _choice(finish_reason="error"),
    "finish reason is a number": _choice(finish_reason=5),
    "finish reason is a list": _choice(finish_reason=["stop"]),
}
#: No completion at all: asked again.
NONSENSE: dict[str, Odd] = {
    "list": lambda body: [body],
    "number": lambda body: 7,
    "null body": lambda body: None,
    "error object": lambda body: {"error": {"message": "overloaded"}},
    "no choices": lambda body: {**body, "choices": []},
    "choices are an object": lambda body: {**body, "choices": {"0": body["choices"][0]}},
    "null choice": lambda body: {**body, "choices": [None]},
    "null message": _choice(message=None),
    "message is a text": _choice(message="hello"),
    "content is a number": _content(lambda text: 3.5),
    "content is an object": _content(lambda text: {"text": text}),
}
BODIES = {
    "not JSON": b"<html>Bad gateway</html>",
    "nothing": b"",
    "not UTF-8": b'{"choices": "\xff\xfe"}',
    "half of it": b'{"id": "chatcmpl-1", "choices": [{"ind',
    "deep": b"[" * 100_000,
}
STATUSES = {
    "too long": (400, {"message": "maximum context length is 100", "code": None}),
    "context code": (400, {"message": "no", "code": "context_length_exceeded"}),
    "too large": (413, {"message": "payload"}),
    "bad request": (400, {"message": "I do not like this"}),
    "busy": (429, {"message": "slow down"}),
    "broken": (500, {"message": "oops"}),
    "gateway": (502, {"message": "oops"}),
    "error is a text": (400, "no"),
    "error of numbers": (400, {"message": 5, "code": ["x"]}),
}
RARE = {"16 MiB": 0.1}


class OddServer(ReplayServer):
    """Answers every request as it should, but for a share of them.

    ``charged`` is what it counted, and of what it did not count the most that may be meant.
    """

    def __init__(self, *args: Any, seed: int = 0, share: float = 0.3, **options: Any):
        super().__init__(*args, **options)
        self.RequestHandlerClass = _OddHandler
        self.random = random.Random(seed)
        self.share = share
        self.charged = 0
        self.odd: Counter[str] = Counter()

    def draw(self) -> str | None:
        """The name of the next oddity, or None."""
        with self.lock:
            if self.random.random() >= self.share:
                return None
            names = [*DRESSED, *USELESS, *NONSENSE, *BODIES, *STATUSES]
            (name,) = self.random.choices(names, [RARE.get(one, 1.0) for one in names])
            self.odd[name] += 1
            return name


class _OddHandler(_Handler):
    server: OddServer
    asked: dict[str, Any]

    def answer(self, request: dict[str, Any]) -> None:
        self.asked = request
        super().answer(request)

    def reply(self, status: int, value: dict[str, Any]) -> None:
        name = self.server.draw() if status == 200 and "choices" in value else None
        body: Any = value
        if name in BODIES:
            self.send(200, BODIES[name], {})
            return
        if name in STATUSES:
            code, error = STATUSES[name]
            self.send(code, json.dumps({"error": error}).encode(), {"Retry-After": "0.01"})
            return
        if name is not None:
            body = {**DRESSED, **USELESS, **NONSENSE}[name](json.loads(json.dumps(value)))
        if status == 200 and name not in NONSENSE:
            self.charge(body)
        self.send(status, json.dumps(body).encode(), {})

    def charge(self, body: dict[str, Any]) -> None:
        usage = body.get("usage")
        counted = usage and all(type(n) is int and 0 <= n < 10**9 for n in usage.values())
        messages = [Message(m["role"], m["content"]) for m in self.asked["messages"]]
        most = most_input_tokens(messages) + self.asked["max_tokens"]
        with self.server.lock:
            self.server.charged += usage["total_tokens"] if usage and counted else most


@dataclass(frozen=True)
class Fuzzed:
    """What came of a run: outcomes by item, what was paid by the store and by the endpoint."""

    finished: Finished
    codes: Counter[str]
    items: int
    paid: int
    charged: int
    odd: Counter[str]
    seconds: float

    @property
    def problems(self) -> list[str]:
        found = []
        if self.finished.end != "complete":
            found.append(f"it ended early: {self.finished.end}, {self.finished.reason}")
        if sum(self.codes.values()) != self.items:
            found.append(f"{self.items - sum(self.codes.values())} items are not settled")
        if self.paid != self.charged:
            found.append(f"the store paid {self.paid}, the endpoint charged {self.charged}")
        unforeseen = [code for code in self.codes if code.startswith("unforeseen")]
        return found + unforeseen


def fuzz(
    cassettes: list[Cassette], items: int, seed: int, folder: Path, *, batch: bool = False
) -> Fuzzed:
    """Curate ``items`` items of the replies of ``cassettes`` against an odd endpoint, by requests
    or by batches."""
    by_question: dict[str, Cassette] = {}
    records: list[Record] = []
    for number in range(items):
        one = cassettes[number % len(cassettes)]
        question = f"{one.question} ({number})"
        by_question[question] = one
        records.append(Cassette(str(number), question, one.chain, one.attempt, one.answer).record())

    def answerer(question: str, task: Any) -> Replied | None:
        replies = by_question[question].replies.get(task.name, ())
        return replies[min(task.attempt, len(replies)) - 1] if replies else Replied("nothing")

    prices = Prices(input=1.0, output=2.0)
    sampling = Sampling(max_tokens=MAX_TOKENS)
    begun = time.monotonic()
    with OddServer(answerer=answerer, seed=seed) as server, Store(folder / "store.sqlite") as store:
        endpoint = Endpoint(
            server.url,
            "teacher",
            timeout=20.0,
            attempts=4,
            wait_initial=0.005,
            wait_max=0.02,
            concurrency=16,
        )

        async def go() -> Finished:
            if batch:
                options = Batching(poll=0.01)
                async with BatchCaller(store, endpoint, prices, options=options) as batches:
                    recipe = Recipe("teacher", sampling)
                    return await Run(records, recipe, store, batches, workers=items).run()
            async with Transport(endpoint, prices) as transport:
                caller = StoredCaller(store, transport, preflight=preflight("teacher", sampling))
                return await Run(records, Recipe("teacher", sampling), store, caller).run()

        finished = asyncio.run(go())
        outcomes = store.outcomes(finished.run).values()
        return Fuzzed(
            finished,
            Counter(f"{one.stage}: {one.code}" if one.code else one.status for one in outcomes),
            items,
            store.ledger().paid.tokens,
            server.charged,
            server.odd,
            time.monotonic() - begun,
        )


def main() -> int:
    from .conftest import load_all
    from .replay import CASSETTES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", action="store_true", help="ask by batches")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cassettes = light(load_all(CASSETTES))
        found = fuzz(cassettes, options.items, options.seed, Path(folder), batch=options.batch)
    print(f"{found.items} items in {found.seconds:.0f} s; {sum(found.odd.values())} odd replies")
    for code, count in found.codes.most_common():
        print(f"  {count:>6}  {code}")
    print(f"paid {found.paid:,} tokens, charged {found.charged:,}")
    for problem in found.problems:
        print(f"problem: {problem}")
    return 1 if found.problems else 0


def light(cassettes: list[Cassette]) -> list[Cassette]:
    """Those whose answers are compared as they are spelled."""
    return [one for one in cassettes if one.name != "changed-answer"]


if __name__ == "__main__":
    sys.exit(main())
