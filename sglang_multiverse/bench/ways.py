"""Ways to have a text written: sequentially, by the client's own forks and joins, by the plugin.

The client's way is what an application does without an engine that forks: it reads the goal, sends
one request for each path (the radix cache holds their common prefix), waits for all, and sends
everything again for the conclusion, so that paths after the first are prefilled a second time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

from ..server import Server
from ..structure import Block
from .scripted import Scripted, params
from .shapes import Script

_PROCESSOR: list[str] = []


class BenchError(RuntimeError):
    """A server did not write what it was made to write."""


@dataclass(frozen=True)
class Texts:
    """Scripts and the file that holds them for the servers."""

    scripts: Sequence[Script]
    path: Path


@dataclass(frozen=True)
class Run:
    """One batch of texts written.

    Attributes:
        seconds: from the first request to the last answer.
        cpu_seconds: of all the server's processes in that time.
        metas: ``meta_info`` of each text's (last) answer.
    """

    seconds: float
    cpu_seconds: float
    metas: list[dict[str, Any]]


class Writer:
    """Sends scripted requests to one server.

    Args:
        stream: ask for server-sent events and read them all, as a chat client does.
        log: a file in which the server notes its forwards.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        texts: Texts,
        *,
        stream: bool = False,
        log: Path | None = None,
    ):
        self.http = http
        self.url = url
        self.texts = texts
        self.stream = stream
        self.log = log

    async def whole(self, index: int) -> dict[str, Any]:
        """Ask for the whole text ``index``: on stock SGLang token by token, with the plugin forked.

        Raises:
            BenchError: the answer is another text.
        """
        script = self.texts.scripts[index]
        return await self.part(index, script.prompt, script.prompt_len, len(script.ids))

    async def by_client(self, index: int) -> dict[str, Any]:
        """Fork and join text ``index`` in this client, over plain requests."""
        script = self.texts.scripts[index]
        return await self._sequence(
            index, script.prompt, script.prompt_len, len(script.ids), script.trace.blocks
        )

    async def _sequence(
        self, index: int, prefix: list[int], at: int, end: int, blocks: Sequence[Block]
    ) -> dict[str, Any]:
        """Write ``[at, end)`` of the script after ``prefix``, the tokens that it may see."""
        script = self.texts.scripts[index]
        ids, one = script.ids, script.dialect
        for block in blocks:
            await self.part(index, prefix, at, block.region_start - len(one.goal_tail))
            trunk = [*prefix, *ids[at : block.region_start]]
            paths = []
            for path in block.paths:
                seeded = ids.index(one.colon, path.start) + 1
                close = path.end if path.close is None else path.close
                paths.append(
                    self._sequence(
                        index, [*trunk, *ids[path.start : seeded]], seeded, close, path.blocks
                    )
                )
            await asyncio.gather(*paths)
            at = block.region_end + len(one.conclusion_seed)
            prefix = [*trunk, *ids[block.region_start : at]]
        return await self.part(index, prefix, at, end)

    async def part(self, index: int, prefix: list[int], at: int, end: int) -> dict[str, Any]:
        """Have ``[at, end)`` of text ``index`` written after ``prefix``.

        Raises:
            BenchError: the answer is another text.
        """
        body = {
            "input_ids": prefix,
            "custom_logit_processor": processor(),
            "sampling_params": {
                "temperature": 0,
                "max_new_tokens": end - at,
                "ignore_eos": True,
                "custom_params": params(
                    self.texts.path, index, shift=at - len(prefix), log=self.log, tag=index
                ),
            },
            "stream": self.stream,
        }
        answer = await self._post(body)
        wanted = list(self.texts.scripts[index].ids[at:end])
        if answer["output_ids"] != wanted:
            raise BenchError(
                f"text {index} ({self.texts.scripts[index].name}) of {self.url}: "
                f"{len(answer['output_ids'])} tokens that are not the {len(wanted)} scripted ones"
            )
        meta: dict[str, Any] = answer["meta_info"]
        return meta

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self.stream:
            answer = await self.http.post(f"{self.url}/generate", json=body)
            if answer.status_code != 200:
                raise BenchError(f"{self.url}/generate: HTTP {answer.status_code}: {answer.text}")
            found: dict[str, Any] = answer.json()
            return found
        last = ""
        async with self.http.stream("POST", f"{self.url}/generate", json=body) as events:
            async for line in events.aiter_lines():
                if line.startswith("data:") and not line.endswith("[DONE]"):
                    last = line  # each event holds the answer so far
        found = json.loads(last.removeprefix("data:"))
        if "error" in found:
            raise BenchError(f"{self.url}/generate: {found['error']}")
        return found


def processor() -> str:
    """:class:`.scripted.Scripted` as a request carries it."""
    if not _PROCESSOR:
        _PROCESSOR.append(Scripted.to_str())
    return _PROCESSOR[0]


def timed(
    server: Server,
    texts: Texts,
    indices: Sequence[int],
    way: Callable[[Writer, int], Awaitable[dict[str, Any]]],
    *,
    stream: bool = False,
    log: Path | None = None,
    keep_cache: bool = False,
) -> Run:
    """Write the texts ``indices`` at once, and time it.

    Args:
        keep_cache: leave the prefix cache as it is; else it is emptied first.

    Raises:
        BenchError: the server wrote something else, or failed.
    """
    if not keep_cache:
        flush(server)
    before = cpu_seconds(server)

    async def everything() -> tuple[float, list[dict[str, Any]]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=3600, limits=limits) as http:
            writer = Writer(http, server.url, texts, stream=stream, log=log)
            begun = time.perf_counter()
            metas = await asyncio.gather(*(way(writer, index) for index in indices))
            return time.perf_counter() - begun, list(metas)

    seconds, metas = asyncio.run(everything())
    return Run(seconds, cpu_seconds(server) - before, metas)


def flush(server: Server, *, patience: float = 30) -> None:
    """Empty the prefix cache once the server is at rest.

    Raises:
        BenchError: it does not come to rest.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            server.request("/flush_cache", {}, raw=True)
            return
        except RuntimeError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"the server does not come to rest: {error}") from error
            time.sleep(0.1)


def cpu_seconds(server: Server) -> float:
    """User and system time of all the server's processes so far."""
    total = 0.0
    root = psutil.Process(server.pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
