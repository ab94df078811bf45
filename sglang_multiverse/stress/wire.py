"""One HTTP request and what became of it: sent at a time, read to its end or hung up on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx


@dataclass
class Call:
    """A request to make.

    Attributes:
        kind: what it is a case of, for the counts of what was covered.
        body: a JSON value, ``bytes`` to send as they are, or None for no body.
        at: seconds after the round's start, or after the answer before it in its chain.
        leave: hang up after so many seconds; None reads the whole answer.
        stream: read server-sent events.
        output_ids: what the answer's must be, where that is decided beforehand.
        twin: calls of one round with the same name must get the same answer.
        batch: ``/generate`` answers it must hold; 0 where that is not known.
        budget: most tokens of one answer; None where none was asked for.
        status: the HTTP status it must get; None where several are right.
    """

    kind: str
    path: str
    body: Any = None
    method: str = "POST"
    at: float = 0.0
    leave: float | None = None
    stream: bool = False
    output_ids: list[int] | None = None
    twin: str | None = None
    batch: int = 0
    budget: int | None = None
    status: int | None = None

    def told(self) -> dict[str, Any]:
        """The call as plain JSON, to be made again from a report."""
        body = self.body
        if isinstance(body, bytes):
            body = {"bytes": body[:4000].decode("latin-1")}
        told = {"kind": self.kind, "method": self.method, "path": self.path, "body": _brief(body)}
        if self.at:
            told["at_s"] = round(self.at, 3)
        if self.leave is not None:
            told["leave_s"] = round(self.leave, 3)
        return told


def _brief(body: Any) -> Any:
    """``body`` without the serialised processor and with deep nesting cut: for a report."""
    try:
        text = json.dumps(body)
    except RecursionError:
        return "nested too deep to print"
    if len(text) > 60_000:
        return {"json_begins": text[:4000], "json_length": len(text)}
    if isinstance(body, dict) and isinstance(body.get("custom_logit_processor"), str):
        return {**body, "custom_logit_processor": "stress.scripted.Forced"}
    return body


@dataclass
class Answer:
    """What came of a :class:`Call`.

    Attributes:
        status: HTTP status; None when none came.
        text: body of an answer that is not a stream.
        events: decoded ``data:`` lines of a stream, ``[DONE]`` left out.
        left: the caller hung up, as planned.
        fault: why there is no (whole) answer, when nobody planned that.
    """

    call: Call
    status: int | None = None
    text: str = ""
    events: list[Any] = field(default_factory=list)
    left: bool = False
    fault: str | None = None
    seconds: float = 0.0

    def json(self) -> Any:
        return json.loads(self.text)


class Wire:
    """An HTTP client of ``url`` that makes many calls at once."""

    def __init__(self, url: str, *, timeout: float = 300.0):
        self.url = url
        self.timeout = timeout

    def client(self) -> httpx.AsyncClient:
        """A client that opens a connection a call: hanging up is seen at once."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx.AsyncClient(base_url=self.url, limits=limits, timeout=self.timeout)

    async def make(self, client: httpx.AsyncClient, call: Call) -> Answer:
        """Make one call; never raises for what the server does."""
        answer = Answer(call)
        begun = time.perf_counter()
        try:
            reading = self._read(client, call, answer)
            if call.leave is None:
                await reading
            else:
                await asyncio.wait_for(reading, call.leave)
        except TimeoutError:
            answer.left = True
        except httpx.TimeoutException as error:
            answer.fault = f"no answer within {self.timeout:.0f} s ({type(error).__name__})"
        except httpx.HTTPError as error:
            answer.fault = f"{type(error).__name__}: {error}"
        answer.seconds = time.perf_counter() - begun
        return answer

    async def _read(self, client: httpx.AsyncClient, call: Call, answer: Answer) -> None:
        body = call.body
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        async with client.stream(
            call.method, call.path, content=content, headers=headers
        ) as response:
            answer.status = response.status_code
            events = response.headers.get("content-type", "").startswith("text/event-stream")
            if events and not call.stream:  # a spoilt body may ask for a stream unknown to us
                answer.call = call = replace(call, stream=True)
            if not events:
                answer.text = (await response.aread()).decode("utf-8", "replace")
                return
            async for line in response.aiter_lines():
                if line.startswith("data:") and line[5:].strip() != "[DONE]":
                    answer.events.append(_event(line[5:]))

    async def round(
        self, chains: Sequence[Sequence[Call]], *, wind_up: float, finals: Sequence[Call]
    ) -> list[Answer]:
        """Make the calls of every chain one after another, all chains at once.

        ``finals`` are made after ``wind_up`` seconds, and again until all is answered: they lift a
        pause and abort what still runs. Returns the answers, chain by chain.
        """
        async with self.client() as client:

            async def follow(chain: Sequence[Call]) -> list[Answer]:
                answers = []
                for call in chain:
                    await asyncio.sleep(call.at)
                    answers.append(await self.make(client, call))
                return answers

            tasks = [asyncio.create_task(follow(chain)) for chain in chains]
            pending = (await asyncio.wait(tasks, timeout=wind_up))[1]
            while pending:
                for call in finals:
                    await self.make(client, call)
                pending = (await asyncio.wait(tasks, timeout=5.0))[1]
            return [answer for task in tasks for answer in task.result()]

    def run(
        self,
        chains: Sequence[Sequence[Call]],
        *,
        wind_up: float = 600.0,
        finals: Sequence[Call] = (),
    ) -> list[Answer]:
        """:meth:`round` for callers that are not asynchronous."""
        return asyncio.run(self.round(chains, wind_up=wind_up, finals=finals))

    def ask(self, path: str, body: Any = None, *, method: str | None = None) -> Answer:
        """One call (GET without a body) and its answer."""
        verb = method or ("GET" if body is None else "POST")
        return self.run([[Call("ask", path, body, method=verb)]])[0]


def _event(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return {"not_json": data}
