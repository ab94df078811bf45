"""Who goes first by priority, and which adapters trees have in use."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")

from sglang_multiverse.patches.scheduling.adapters import adapters_of, fits
from sglang_multiverse.patches.scheduling.pressure import arrival
from sglang_multiverse.patches.scheduling.priority import outranked, standing


def scheduler(*waiting: int, on: bool = True, low_first: bool = False, **more: Any) -> Any:
    return SimpleNamespace(
        enable_priority_scheduling=on,
        schedule_low_priority_values_first=low_first,
        waiting_queue=[request(priority) for priority in waiting],
        **more,
    )


def request(priority: int | None, order: int = 0, lora_id: str | None = None) -> Any:
    req = SimpleNamespace(priority=priority, rid=f"r{order}", lora_id=lora_id)
    req.finished = lambda: False
    return req


def root(priority: int | None = None, lora_id: str | None = None) -> Any:
    return SimpleNamespace(req=request(priority, lora_id=lora_id))


def test_without_priority_scheduling_arrival_alone_counts() -> None:
    off = scheduler(9, on=False)
    assert standing(off, request(5)) == standing(off, request(None)) == 0
    assert not outranked(off, root(1))


@pytest.mark.parametrize("low_first", [False, True])
def test_higher_priorities_stand_first_and_unnamed_ones_last(low_first: bool) -> None:
    one = scheduler(low_first=low_first)
    best, worst = (1, 9) if low_first else (9, 1)
    places = [standing(one, request(priority)) for priority in (best, worst, None)]
    assert places == sorted(places)
    assert len(set(places)) == 3
    assert places[-1] >= sys.maxsize


def test_requests_order_by_priority_then_arrival() -> None:
    one = scheduler()
    made = [request(priority, order) for order, priority in enumerate([0, 7, 0, 7])]
    for order, req in enumerate(made):
        req.multiverse_arrival = (standing(one, req), order)
    assert [req.rid for req in sorted(made, key=arrival)] == ["r1", "r3", "r0", "r2"]


def test_a_tree_without_kv_lets_higher_priorities_pass() -> None:
    assert outranked(scheduler(0, 6), root(5))
    assert not outranked(scheduler(0, 5), root(5))


def test_adapters_of_trees_with_kv_are_in_use() -> None:
    parked, retracted, base = root(lora_id="a"), root(lora_id="b"), root()
    assert adapters_of([parked, retracted, base], [retracted]) == {"a", None}


def test_a_replay_waits_until_its_adapter_fits_a_batch() -> None:
    manager = SimpleNamespace(validate_lora_batch=lambda ids: len(ids) <= 2)
    runner = SimpleNamespace(model_runner=SimpleNamespace(lora_manager=manager))
    one = scheduler(enable_lora=True, tp_worker=runner, chunked_req=None)
    running = SimpleNamespace(reqs=[request(0, lora_id="a")])
    assert fits(one, root(lora_id="b"), set(), running)
    assert not fits(one, root(lora_id="b"), {"c"}, running)
    one.chunked_req = request(0)
    assert not fits(one, root(lora_id="b"), set(), running)
    one.enable_lora = False
    assert fits(one, root(), {"c"}, running)
