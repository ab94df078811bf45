"""A prompt in the middle of its prefill neither ends the scheduler nor starves."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

from sglang_multiverse.patches.scheduling.coordinator import Coordinator

CHUNK = 32


def coordinator_of(*, free: int, left: int = 100, mixed: bool = False, rows: int = 0) -> Any:
    """A coordinator beside a prompt of which ``left`` tokens are not computed yet."""
    active = Coordinator.__new__(Coordinator)
    batch = SimpleNamespace(reqs=[object()] * rows, is_empty=lambda: not rows)
    prompt = SimpleNamespace(full_untruncated_fill_ids=range(500), extend_end=500 - left)
    active.scheduler = SimpleNamespace(
        chunked_req=prompt,
        chunked_prefill_size=CHUNK,
        is_mixed_chunk=mixed,
        running_batch=batch,
        last_batch=None,
    )
    active.pool = SimpleNamespace(free_tokens=free)
    active.trees, active.replays, active.queue = [], [], []
    retracted: list[Any] = []
    active.retract = retracted.append  # type: ignore[method-assign]
    active.retracted = retracted
    return active


@pytest.mark.parametrize(
    ("free", "left", "mixed", "rows", "starves"),
    [
        (CHUNK, 100, False, 5, False),
        (CHUNK - 1, 100, False, 5, True),
        (CHUNK + 4, 100, True, 5, True),
        (CHUNK + 5, 100, True, 5, False),
        (20, 20, False, 5, False),
        (19, 20, False, 5, True),
    ],
)
def test_a_chunk_waits_where_memory_is_short(
    free: int, left: int, mixed: bool, rows: int, starves: bool
) -> None:
    active = coordinator_of(free=free, left=left, mixed=mixed, rows=rows)
    assert active.next_batch(active.scheduler.running_batch) == (starves, None)
    assert not active.retracted  # what runs will free some, or be retracted for its own steps


def test_where_nothing_runs_the_youngest_tree_gives_way() -> None:
    active = coordinator_of(free=0)
    active.trees = [SimpleNamespace(name="old"), SimpleNamespace(name="young")]
    assert active.next_batch(active.scheduler.running_batch) == (True, None)
    assert [root.name for root in active.retracted] == ["young"]


def test_where_nobody_else_has_memory_stock_code_decides() -> None:
    active = coordinator_of(free=0)
    assert active.next_batch(active.scheduler.running_batch) == (False, None)


def test_without_such_a_prompt_nothing_changes() -> None:
    active = coordinator_of(free=0)
    active.scheduler.chunked_req = None
    assert active.next_batch(active.scheduler.running_batch) == (False, None)


class Batch:
    """Rows that decode, with memory for ``room`` of them."""

    def __init__(self, names: str, room: int):
        self.reqs = [request(name, i) for i, name in enumerate(names)]
        self.room = room
        self.released: list[str] = []

    def check_decode_mem(self, selected_indices: list[int]) -> bool:
        return len(selected_indices) <= self.room

    def release_req(self, index: int, left: int, **_: Any) -> None:
        self.released.append(self.reqs[index].rid)

    def filter_batch(self, keep_indices: list[int]) -> None:
        self.reqs = [self.reqs[i] for i in keep_indices]


def request(name: str, arrived: int) -> Any:
    return SimpleNamespace(
        rid=name, multiverse_arrival=(0, arrived), beam_group=None, to_finish=None
    )


@pytest.mark.parametrize(("room", "retracted"), [(2, "c"), (1, "cb"), (0, "cba")])
def test_rows_give_way_to_a_prompt_in_its_prefill_and_none_is_aborted(
    room: int, retracted: str
) -> None:
    """It holds memory that no row can be made to give back."""
    active = coordinator_of(free=0)
    tracker = SimpleNamespace(estimate_new_token_ratio_after_retract=lambda reqs: 0.5)
    active.scheduler.new_token_ratio_tracker = tracker
    batch = Batch("abc", room)
    found = active.relieve(batch)
    assert found is not None
    assert [req.rid for req in found[0]] == list(retracted)
    assert batch.released == list(retracted)
    assert found[2] == []
    assert [req.rid for req in batch.reqs] == list("abc")[:room]


def test_without_trees_or_such_a_prompt_stock_code_retracts() -> None:
    active = coordinator_of(free=0)
    active.scheduler.chunked_req = None
    assert active.relieve(Batch("abc", 1)) is None
