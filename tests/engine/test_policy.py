"""Policies of branching, on a scheduler in small: bounds, order, and that nobody waits for ever."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.engine.options import EngineOptions, OptionError
from sglang_multiverse.engine.policy import Admission, Policy, in_turn

policies = st.one_of(
    st.just("eager"),
    st.builds("cap:{}".format, st.integers(1, 5)),
    st.builds("load:{}".format, st.integers(1, 12)),
)


@dataclass(eq=False)
class Request:
    """One that forks into ``paths`` of some length each, and then is done; or a plain one."""

    arrival: int
    paths: list[int]
    bound: int | None = None
    running: list[int] = field(default_factory=list)

    @property
    def options(self) -> EngineOptions:
        return EngineOptions(max_live_rows=self.bound)

    def live(self) -> int:
        return len(self.running)


@dataclass(frozen=True)
class Start:
    """A queued row that starts a path of ``request``."""

    request: Request
    length: int


class Scheduler:
    """Chooses among queued starts as the coordinator does, and decodes a token of every row."""

    def __init__(self, policy: str, rows: int):
        self.policy = Policy.parse(policy)
        self.rows = rows
        self.queue: list[Start] = []
        self.requests: list[Request] = []
        self.plain: list[int] = []
        self.started: list[tuple[int, int]] = []

    def arrive(self, request: Request) -> None:
        self.requests.append(request)
        self.queue[:0] = [Start(request, length) for length in request.paths]

    @property
    def running(self) -> int:
        return len(self.plain) + sum(request.live() for request in self.requests)

    def step(self, now: int) -> None:
        admission, waiting, free = (
            Admission(self.policy, self.running),
            [],
            self.rows - self.running,
        )
        for row in in_turn(
            self.queue, starts=lambda row: True, arrival=lambda row: row.request.arrival
        ):
            request = row.request
            if free < 1 or not admission.admits(request):
                waiting.append(row)
                continue
            before, others = request.live(), self.running
            request.running.append(row.length)
            admission.start(request)
            free -= 1
            self.started.append((now, request.arrival))
            self.check(request, before, others)
        self.queue = waiting
        for request in self.requests:
            request.running = [left - 1 for left in request.running if left > 1]
        self.plain = [left - 1 for left in self.plain if left > 1]

    def check(self, request: Request, before: int, running: int) -> None:
        if request.bound is not None:
            assert request.live() <= request.bound
        rows = self.policy.rows
        if rows is not None and before:
            assert (before if self.policy.kind == "cap" else running) < rows


def scheduler(policy: str, seed: int, rows: int) -> tuple[Scheduler, list[Request]]:
    rng = random.Random(seed)
    sim = Scheduler(policy, rows)
    requests = [
        Request(
            i,
            [rng.randint(1, 6) for _ in range(rng.randint(2, 5))],
            rng.choice([None, None, 1, 2]),
        )
        for i in range(rng.randint(1, 8))
    ]
    return sim, requests


@settings(max_examples=300, deadline=None)
@given(policy=policies, seed=st.integers(0, 10**6), rows=st.integers(8, 40))
def test_every_path_runs_within_the_bounds(policy: str, seed: int, rows: int) -> None:
    """Bounds are asserted at every start (``check``); here, that all paths come to run."""
    sim, requests = scheduler(policy, seed, rows)
    rng = random.Random(seed + 1)
    pending = list(requests)
    for now in range(2_000):
        if pending and rng.random() < 0.3:
            sim.arrive(pending.pop(0))
        if rng.random() < 0.2 and len(sim.plain) < rows // 4:
            sim.plain.append(rng.randint(1, 20))
        sim.step(now)
        if not pending and not sim.queue:
            break
    assert len(sim.started) == sum(len(request.paths) for request in requests)


@settings(max_examples=200, deadline=None)
@given(policy=policies, seed=st.integers(0, 10**6))
def test_a_request_always_decodes_however_full_the_batch(policy: str, seed: int) -> None:
    """Plain rows beyond every bound never end: each request still has a path at every step."""
    sim, requests = scheduler(policy, seed, rows=10_000)
    sim.plain = [10**6] * 50
    for request in requests:
        sim.arrive(request)
    for now in range(200):
        before = {start.request: start.request.live() for start in sim.queue}
        sim.step(now)
        started = {arrival for when, arrival in sim.started if when == now}
        for request, live in before.items():
            assert live or request.arrival in started
        if not sim.queue:
            break
    assert not sim.queue
    longest = max(sum(request.paths) for request in requests)
    assert now <= longest, "no request takes longer than its paths one after another"


def test_the_oldest_request_gets_the_rows_that_are_left() -> None:
    sim = Scheduler("load:6", rows=100)
    for arrival in (1, 2, 3):
        sim.arrive(Request(arrival, [9, 9, 9, 9]))  # each in front of the others, as forks are
    sim.step(0)
    started = [arrival for _, arrival in sim.started]
    # One path each at least; the rows beyond go to the oldest.
    assert sorted(started) == [1, 1, 1, 1, 2, 2, 3]


def test_a_cap_is_per_request_and_a_load_is_for_all() -> None:
    cap, load = Policy.parse("cap:2"), Policy.parse("load:4")
    assert cap.admits(live=1, running=100)
    assert not cap.admits(live=2, running=2)
    assert load.admits(live=3, running=3)
    assert not load.admits(live=1, running=4)
    assert load.admits(live=0, running=100)
    assert Policy.parse("eager").admits(live=100, running=100)


def test_what_ends_or_joins_goes_before_what_starts() -> None:
    rows = [("start", 2), ("join", 9), ("start", 1), ("tail", 0), ("start", 1.5)]
    ordered = in_turn(rows, starts=lambda row: row[0] == "start", arrival=lambda row: row[1])
    assert [row[1] for row in ordered] == [9, 0, 1, 1.5, 2]


@pytest.mark.parametrize("text", ["eager", "cap:1", "load:64"])
def test_forms(text: str) -> None:
    assert str(Policy.parse(text)) == text
    assert EngineOptions(policy=text).policy == text


@pytest.mark.parametrize("text", ["", "cap", "cap:0", "load:-1", "load: 3", "lazy", "eager:2"])
def test_other_forms_are_refused_with_the_right_ones(text: str) -> None:
    with pytest.raises(OptionError, match="eager, cap:N or load:N"):
        EngineOptions(policy=text)


def test_a_request_cannot_choose_the_policy() -> None:
    server = EngineOptions(policy="cap:2")
    assert server.for_request({"multiverse": {"max_live_rows": 1}}).policy == "cap:2"
    with pytest.raises(OptionError, match=r"unknown field\(s\) policy"):
        server.for_request({"multiverse": {"policy": "eager"}})


@pytest.mark.parametrize("params", [None, {}, [1, 2], "abc", 7, {"other": 1}])
def test_custom_params_of_somebody_else_change_nothing(params: object) -> None:
    server = EngineOptions(max_branches=3)
    assert server.for_request(params) is server
