"""``multiverse bench fork``: what a fork, a join, a replay and a second turn cost.

All times are the server's: it notes when each forward samples. A fork lasts from the sample of
``</Goal>`` to the first samples of its paths, a join from the last ``</Path>`` to the first sample
of the conclusion; one decode step would have passed in any case.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..server import Server
from .numbers import spread
from .scripted import Forward, read_log, write_scripts
from .servers import serving
from .shapes import Author, Script, forked, plain
from .tell import Tell
from .ways import BenchError, Texts, Writer, timed

_FOLLOW_UP = 16


@dataclass(frozen=True)
class Span:
    """From one sample to another: forwards begun on the way, the last included, seconds, and CPU
    seconds of the scheduler's thread, where they are known."""

    steps: int
    seconds: float
    cpu: float | None = None


@dataclass(frozen=True)
class Plan:
    paths: Sequence[int]
    path_tokens: int
    repeats: int
    seed: int = 0


def span(forwards: Sequence[Forward], first: int, last: int) -> Span:
    """From the forward that sampled offset ``first`` to the one that sampled ``last``.

    Raises:
        BenchError: the log lacks one of them.
    """
    where = {offset: i for i, one in enumerate(forwards) for _, offset in one.sampled}
    if first not in where or last not in where:
        raise BenchError(f"the log of forwards lacks the samples at {first} or {last}")
    begun, ended = where[first], where[last]
    first_one, last_one = forwards[begun], forwards[ended]
    return Span(ended - begun, last_one.at - first_one.at, last_one.cpu - first_one.cpu)


def fork_and_join(script: Script, forwards: Sequence[Forward]) -> tuple[Span, Span, Span]:
    """Of the script's first block: its fork, its join, and the median one-row step before it."""
    block = script.trace.blocks[0]
    one = script.dialect
    closes = [path.close or path.end for path in block.paths]
    seeded = script.ids.index(one.colon, block.paths[0].start) + 1
    fork = span(forwards, block.region_start - len(one.goal_tail) - 1, seeded)
    sampled = {offset: i for i, each in enumerate(forwards) for _, offset in each.sampled}
    last = max((close - 1 for close in closes), key=lambda offset: sampled[offset])
    join = span(forwards, last, block.region_end + len(one.conclusion_seed))
    goal = block.region_start - len(one.goal_tail)
    alone = [
        (after.at - before.at, after.cpu - before.cpu)
        for before, after in itertools.pairwise(forwards)
        if before.sampled[0][1] + 1 == after.sampled[0][1] < goal and after.rows == 1
    ]
    seconds, cpu = zip(*alone, strict=True)
    return fork, join, Span(1, statistics.median(seconds), statistics.median(cpu))


def run(plan: Plan, model: Path, tell: Tell, *, way: str) -> dict[str, Any]:
    """Measure on servers of ``model``, and return what ``--json`` prints.

    Args:
        way: ``plugin`` or ``multiverse``, which attention backend forks.
    """
    from transformers import AutoTokenizer

    author = Author(AutoTokenizer.from_pretrained(model))
    rng = random.Random(plan.seed)
    scripts = {
        paths: author.write(
            forked(paths, plan.path_tokens, around=40), rng.randrange(1 << 30), name=f"{paths}"
        )
        for paths in plan.paths
    }
    need = 4 * max(len(script.ids) for script in scripts.values()) + 4000
    found: dict[str, Any] = {"backend": way, "path_tokens": plan.path_tokens, "rows": []}
    with (
        tempfile.TemporaryDirectory(prefix="multiverse-bench-") as folder,
        serving("stock", model, need, tell) as stock,
        serving(way, model, need, tell) as server,
    ):
        bench = _Bench(stock, server, author, Path(folder))
        for paths, script in scripts.items():
            tell(f"{paths} paths of {plan.path_tokens} tokens …")
            bench.warm(script)
            found["rows"].append({"paths": paths, **bench.measure(script, plan.repeats)})
    return found


class _Bench:
    def __init__(self, stock: Server, server: Server, author: Author, folder: Path):
        self.stock = stock
        self.server = server
        self.author = author
        self.folder = folder
        self._names = itertools.count()

    def _texts(self, *scripts: Script) -> Texts:
        texts = Texts(scripts, self.folder / f"texts-{next(self._names)}.json")
        write_scripts(texts.scripts, texts.path)
        return texts

    def _log(self) -> Path:
        return self.folder / f"log-{next(self._names)}.jsonl"

    def warm(self, script: Script) -> None:
        texts = self._texts(script)
        for server in (self.stock, self.server):
            timed(server, texts, [0], Writer.whole)

    def measure(self, script: Script, repeats: int) -> dict[str, Any]:
        texts = self._texts(script)
        forks, joins, alone = [], [], []
        for _ in range(repeats):
            log = self._log()
            timed(self.server, texts, [0], Writer.whole, log=log)
            fork, join, step = fork_and_join(script, read_log(log))
            forks.append(fork)
            joins.append(join)
            alone.append(step)
        replays = [self._retract(self.server, texts, script) for _ in range(repeats)]
        prefills = [self._retract(self.stock, texts, script) for _ in range(repeats)]
        turns = [self._second_turn(self.server, script) for _ in range(repeats)]
        plain_turns = [self._second_turn(self.stock, script) for _ in range(repeats)]
        return {
            "decode_step": _shown(alone),
            "fork": _shown(forks),
            "join": _shown(joins),
            "retraction": _shown(replays),
            "retraction_stock": _shown(prefills),
            "second_turn": _turn(turns),
            "second_turn_stock": _turn(plain_turns),
        }

    def _retract(self, server: Server, texts: Texts, script: Script) -> Span:
        """Retract the request in the middle of its paths; from going on to its next sample."""
        log = self._log()
        middle = len(script.ids) // 2
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(timed, server, texts, [0], Writer.whole, log=log)
            while not answer.done():
                forwards = read_log(log)
                seen = sum(len(one.sampled) for one in forwards)
                if seen > middle - script.prompt_len:
                    break
                threading.Event().wait(0.01)
            server.request("/pause_generation", {"mode": "retract"})
            before = len(read_log(log))
            begun = time.perf_counter()
            server.request("/continue_generation", {})
            answer.result()
        after = read_log(log)[before:]
        for steps, one in enumerate(after, start=1):
            if any(offset >= 0 for _, offset in one.sampled):
                return Span(steps, one.at - begun)
        raise BenchError("the request had ended before it was retracted")

    def _second_turn(self, server: Server, script: Script) -> tuple[Span, int, int]:
        """After the answer, a second question: to its first sample; cached and prompt tokens."""
        question = self.author.write(plain(1), len(script.ids), prompt=_FOLLOW_UP)
        ids = (*script.ids, *question.ids)
        second = Script("second turn", ids, len(script.ids) + _FOLLOW_UP, script.dialect)
        texts = self._texts(script, second)
        timed(server, texts, [0], Writer.whole)
        log = self._log()
        begun = time.perf_counter()
        run = timed(server, texts, [1], Writer.whole, log=log, keep_cache=True)
        forwards = read_log(log)
        for steps, one in enumerate(forwards, start=1):
            if any(offset >= second.prompt_len for _, offset in one.sampled):
                meta = run.metas[0]
                seconds = one.at - begun
                return Span(steps, seconds), int(meta["cached_tokens"]), second.prompt_len
        raise BenchError("the log of forwards lacks the second turn")


def _shown(spans: Sequence[Span]) -> dict[str, Any]:
    times = spread([1000 * one.seconds for one in spans])
    cpu = [1000 * one.cpu for one in spans if one.cpu is not None]
    return {
        "steps": statistics.median(one.steps for one in spans),
        "ms": times["median"],
        "low_ms": times["low"],
        "high_ms": times["high"],
        "cpu_ms": statistics.median(cpu) if cpu else None,
    }


def _turn(turns: Sequence[tuple[Span, int, int]]) -> dict[str, Any]:
    return {
        **_shown([one for one, _, _ in turns]),
        "cached_tokens": turns[0][1],
        "prompt_tokens": turns[0][2],
    }
