"""The forwards a text needs, sequentially and forked, and what they would cost at best.

A forward computes so many tokens in so many rows and reads so much KV. The sequence of forwards of
a text follows from its structure alone. With the step times of the machine at hand
(:class:`StepCost`) that gives the ``ideal``: what a speed-up could be if fork and join cost no more
than the forwards they need.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..dialect import Dialect
from ..structure import Block
from .shapes import Script


@dataclass
class Work:
    """What one forward does: tokens computed, rows they stand in, KV tokens those rows read."""

    rows: int = 0
    tokens: int = 0
    kv: int = 0

    def add(self, rows: int, tokens: int, kv: int) -> None:
        self.rows += rows
        self.tokens += tokens
        self.kv += kv


def sequential(script: Script) -> list[Work]:
    """The prompt in one forward, then a token each."""
    works = [Work(1, script.prompt_len, script.prompt_len)]
    works += [Work(1, 1, length) for length in range(script.prompt_len + 1, len(script.ids))]
    return works


def in_parallel(script: Script) -> list[Work]:
    """The prompt in one forward; one for a fork, one for a join; every open path a row."""
    planner = _Planner(script.dialect, script.ids)
    planner.sequence(0, 0, script.prompt_len, script.prompt_len, len(script.ids), _top(script))
    return [planner.works[time] for time in range(len(planner.works))]


def _top(script: Script) -> list[Block]:
    return script.trace.blocks


class _Planner:
    def __init__(self, dialect: Dialect, ids: tuple[int, ...]):
        self.dialect = dialect
        self.ids = ids
        self.works: dict[int, Work] = defaultdict(Work)

    def sequence(
        self, time: int, seen: int, pending: int, at: int, end: int, blocks: list[Block]
    ) -> tuple[int, int]:
        """Plan one row from forward ``time`` on, which computes ``pending`` tokens after ``seen``.

        Its first sample stands at offset ``at`` of the text, its last before ``end``.

        Returns:
            The forward after its last sample, and the tokens in its row, that sample not among
            them.
        """
        one = self.dialect
        for block in blocks:
            goal_end = block.region_start - len(one.goal_tail)
            time, seen = self.decode(time, seen, pending, goal_end - at)
            # </Goal> and what follows it are computed with the first path's seed.
            lead = 1 + len(one.goal_tail)
            last, joined, tails = time, seen + lead, []
            for i, path in enumerate(block.paths):
                seed = self.seed(path.start)
                if i == 0:
                    inner = (seen, lead + seed)
                else:
                    inner = (seen + lead, seed)
                close = path.end if path.close is None else path.close
                after, row = self.sequence(time, *inner, path.start + seed, close, path.blocks)
                last = max(last, after)
                tails.append(row + 1 + len(one.path_tail))
                joined += path.end - path.start
            for row in tails:
                self.works[last].add(1, 1 + len(one.path_tail), row)
            time, seen, pending = last, joined, len(one.conclusion_seed)
            at = block.region_end + pending
        return self.decode(time, seen, pending, end - at)

    def decode(self, time: int, seen: int, pending: int, samples: int) -> tuple[int, int]:
        for _ in range(samples):
            seen += pending
            self.works[time].add(1, pending, seen)
            time, pending = time + 1, 1
        return time, seen

    def seed(self, start: int) -> int:
        """Tokens of the seed of the path at ``start``: up to its label's colon."""
        return self.ids.index(self.dialect.colon, start) + 1 - start


def together(many: Iterable[list[Work]]) -> list[Work]:
    """The forwards of several texts begun at the same time."""
    total: list[Work] = []
    for works in many:
        total += [Work() for _ in range(len(works) - len(total))]
        for sum_, work in zip(total, works, strict=False):
            sum_.add(work.rows, work.tokens, work.kv)
    return total


@dataclass(frozen=True)
class StepCost:
    """Seconds of a forward of stock SGLang on this machine.

    Attributes:
        decode: rows → seconds of a decode step with ``kv_per_row`` tokens of KV in each row.
        token: seconds that a token more than the rows adds to a forward.
        kv: seconds that a KV token read adds.
    """

    decode: Mapping[int, float]
    kv_per_row: float
    token: float
    kv: float

    def seconds(self, work: Work) -> float:
        """Of one forward: between measured row counts linear, beyond the last in proportion."""
        rows = sorted(self.decode)
        times = [self.decode[count] for count in rows]
        if work.rows > rows[-1]:
            base = times[-1] * work.rows / rows[-1]
        else:
            base = float(np.interp(work.rows, rows, times))
        extra = self.token * (work.tokens - work.rows)
        return base + extra + self.kv * (work.kv - work.rows * self.kv_per_row)

    def total(self, works: Iterable[Work]) -> float:
        return sum(self.seconds(work) for work in works)
