"""The pipeline keeps the endpoint busy: a run takes about as long as its replies, not their sum."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from sglang_multiverse.data_pipeline.pipeline import Run
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Record
from sglang_multiverse.data_pipeline.store.store import Store
from sglang_multiverse.data_pipeline.teacher.call import Call, Reply
from sglang_multiverse.data_pipeline.teacher.caller import StoredCaller
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette
from sglang_multiverse.data_pipeline.teacher.task import Task

LATENCY = 0.4
ITEMS = 24


class Slow(StoredCaller):
    """Replies of one cassette after a while, to any item; counts how many were waited for at
    once."""

    def __init__(self, cassette: Cassette):
        self.cassette = cassette
        self.stopping = asyncio.Event()
        self.waiting = self.most = 0

    async def __call__(self, call: Call) -> Reply:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await asyncio.sleep(LATENCY)
        self.waiting -= 1
        task = Task.read(call.messages[-1].content)
        assert task is not None
        return Reply(self.cassette.replies[task.name][task.attempt - 1].text or "")


def test_items_wait_for_their_replies_together(tmp_path: Path, light: list[Cassette]) -> None:
    clean = next(cassette for cassette in light if cassette.name == "clean")
    records: list[Record] = [replace(clean.record(), id=f"item{number}") for number in range(ITEMS)]

    async def go(store: Store) -> tuple[int, int]:
        caller = Slow(clean)
        finished = await Run(records, Recipe("teacher"), store, caller, workers=ITEMS).run()
        return finished.progress.accepted, caller.most

    start = time.monotonic()
    with Store(tmp_path / "store.sqlite") as store:
        accepted, most = asyncio.run(go(store))
    took = time.monotonic() - start
    assert accepted == ITEMS
    assert most > ITEMS // 2
    one_by_one = ITEMS * 5 * LATENCY
    assert took < one_by_one / 2, f"{took:.1f} s; one after another it would be {one_by_one:.0f} s"
