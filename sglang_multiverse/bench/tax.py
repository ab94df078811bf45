"""``multiverse bench tax``: plain traffic on a server with the plugin and on one without."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ..server import Server
from .numbers import ratio_interval, spread
from .servers import serving
from .tell import Tell
from .ways import BenchError, cpu_seconds, flush

_PROMPT = 32


@dataclass(frozen=True)
class Plan:
    """Pairs of runs of ``tokens`` tokens in each of ``batches`` rows."""

    batches: Sequence[int]
    tokens: int
    pairs: int
    seed: int = 0


def run(plan: Plan, model: Path, tell: Tell, *, way: str) -> dict[str, Any]:
    """Measure with two servers, which take turns; returns what ``--json`` prints.

    Raises:
        BenchError: the two gave different answers, or an answer holds a tag.
    """
    need = max(plan.batches) * (plan.tokens + _PROMPT) * 2 + 4000
    found = []
    with serving("stock", model, need, tell) as stock, serving(way, model, need, tell) as server:
        for batch in plan.batches:
            for one in (stock, server):
                _plain(one, batch, 4, plan.seed)
        runs: dict[int, list[tuple[Any, Any]]] = {batch: [] for batch in plan.batches}
        for number in range(plan.pairs):
            tell(f"plain traffic, pair {number + 1} of {plan.pairs} …")
            for batch in plan.batches:
                seed = plan.seed + 1 + number
                if number % 2:
                    without = _plain(stock, batch, plan.tokens, seed)
                    with_ = _plain(server, batch, plan.tokens, seed)
                else:
                    with_ = _plain(server, batch, plan.tokens, seed)
                    without = _plain(stock, batch, plan.tokens, seed)
                if with_[2] != without[2]:
                    raise BenchError(f"plain answers differ with the plugin (seed {seed})")
                runs[batch].append((with_, without))
        for batch, pairs in runs.items():
            found.append(_row(batch, plan.tokens, pairs))
    everything = [(w[0], s[0]) for pairs in runs.values() for w, s in pairs]
    ratio, low, high = ratio_interval(everything)
    return {
        "ratio": ratio,
        "low": low,
        "high": high,
        "backend": way,
        "pairs": len(everything),
        "rows": found,
    }


def _row(batch: int, tokens: int, pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    ratio, low, high = ratio_interval([(with_[0], without[0]) for with_, without in pairs])
    cpu, cpu_low, cpu_high = ratio_interval([(with_[1], without[1]) for with_, without in pairs])
    ms = 1000 / tokens
    return {
        "batch": batch,
        "ratio": ratio,
        "low": low,
        "high": high,
        "cpu_ratio": cpu,
        "cpu_low": cpu_low,
        "cpu_high": cpu_high,
        "step_ms": {
            "plugin": spread([with_[0] * ms for with_, _ in pairs])["median"],
            "stock": spread([without[0] * ms for _, without in pairs])["median"],
        },
    }


def _plain(
    server: Server, batch: int, tokens: int, seed: int
) -> tuple[float, float, list[list[int]]]:
    """Seconds, CPU seconds of the server, and the answers of ``batch`` greedy requests."""
    rng = random.Random(f"{seed}:{batch}")
    prompts = [[rng.randrange(30, 440) for _ in range(_PROMPT)] for _ in range(batch)]
    flush(server)
    before = cpu_seconds(server)

    async def ask(http: httpx.AsyncClient, prompt: list[int]) -> list[int]:
        params = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": params}
        answer = await http.post(f"{server.url}/generate", json=body)
        if answer.status_code != 200:
            raise BenchError(f"{server.url}/generate: HTTP {answer.status_code}: {answer.text}")
        ids: list[int] = answer.json()["output_ids"]
        return ids

    async def everything() -> tuple[float, list[list[int]]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=3600, limits=limits) as http:
            begun = time.perf_counter()
            answers = await asyncio.gather(*(ask(http, prompt) for prompt in prompts))
            return time.perf_counter() - begun, list(answers)

    seconds, answers = asyncio.run(everything())
    return seconds, cpu_seconds(server) - before, answers
