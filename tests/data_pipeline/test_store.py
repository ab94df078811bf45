"""The store: reservations, leases, the ledger, recovery after death, two processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from sglang_multiverse.data_pipeline.store.database import PAGE
from sglang_multiverse.data_pipeline.store.store import Opened, Outcome, Status, Store, StoreError
from sglang_multiverse.data_pipeline.teacher.budget import Amount, Budget
from sglang_multiverse.data_pipeline.teacher.call import Call, Message, Reply, Sampling, Usage

WORST = Amount(1000, 0.5)


def call(text: str = "hello", **changes: object) -> Call:
    values: dict[str, object] = {
        "item": "i1",
        "stage": "fill",
        "stage_version": "1",
        "prompt": "fill",
        "prompt_hash": "abc",
        "model": "teacher",
        "sampling": Sampling(max_tokens=100),
        "messages": (Message("user", text),),
    }
    return Call(**{**values, **changes})  # type: ignore[arg-type]


def reply(text: str = "fine", **changes: object) -> Reply:
    return Reply(text, usage=Usage(10, 5), cost=0.01, **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "curation.sqlite"


def test_a_reply_is_kept_under_everything_it_depends_on(path: Path) -> None:
    one = call()
    with Store(path) as store:
        assert store.reply(one.key) is None
        assert store.open_call(one, WORST) is Opened.OURS
        store.close_call(one.key, reply())
    with Store(path) as store:
        found = store.open_call(call(item="another", subject="B1"), WORST)
        assert isinstance(found, Reply)
        assert (found.text, found.usage, found.cost) == ("fine", Usage(10, 5), 0.01)
        for change in (
            {"stage": "frame"},
            {"stage_version": "2"},
            {"prompt_hash": "other"},
            {"model": "student"},
            {"sampling": Sampling(temperature=0.5, max_tokens=100)},
            {"messages": (Message("user", "hello!"),)},
            {"messages": (Message("system", "hello"),)},
            {"attempt": 2},
        ):
            assert store.reply(call(**change).key) is None, change


def test_a_call_in_flight_is_busy_for_others_of_the_living(path: Path) -> None:
    with Store(path) as one, Store(path) as other:
        assert one.open_call(call(), WORST) is Opened.OURS
        assert other.open_call(call(), WORST) is Opened.BUSY
        one.close_call(call().key, reply())
        assert isinstance(other.open_call(call(), WORST), Reply)


def test_the_ledger_holds_the_worst_case_until_the_truth_is_known(path: Path) -> None:
    budget = Budget(tokens=1500)
    with Store(path) as store:
        assert store.open_call(call("a"), WORST, budget) is Opened.OURS
        assert store.ledger().held == WORST
        assert store.open_call(call("b"), WORST, budget) is Opened.DEAR
        store.close_call(call("a").key, reply())
        assert store.ledger().held == Amount(0, 0)
        assert store.ledger().paid == Amount(15, 0.01)
        assert store.open_call(call("b"), WORST, budget) is Opened.OURS
        store.abandon_call(call("b").key, unanswered=0)
        assert store.ledger().held == Amount(0, 0)
        assert [row["state"] for row in store.calls()] == ["done"]


def test_money_is_budgeted_too(path: Path) -> None:
    with Store(path) as store:
        assert store.open_call(call("a"), WORST, Budget(cost=0.4)) is Opened.DEAR
        assert store.open_call(call("a"), WORST, Budget(cost=0.5)) is Opened.OURS


def test_an_unanswered_request_stays_on_the_books(path: Path) -> None:
    with Store(path) as store:
        store.open_call(call(), WORST)
        store.abandon_call(call().key, unanswered=2)
        assert store.ledger().lost == Amount(2000, 1.0)
        (row,) = store.calls()
        assert (row["state"], row["lost"]) == ("lost", 2)
        assert store.open_call(call(), WORST) is Opened.OURS
        store.close_call(call().key, reply(unanswered=1))
        (row,) = store.calls()
        assert (row["state"], row["lost"]) == ("done", 3)
        assert store.ledger().lost == Amount(3000, 1.5)


DIES = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from sglang_multiverse.data_pipeline.store.store import Store
from tests.data_pipeline.test_store import WORST, call, reply
store = Store(Path({path!r}))
store.put_run("r", {{}}, [("i1", {{}})])
assert store.claim("r", "i1")
store.open_call(call("paid"), WORST)
store.close_call(call("paid").key, reply())
store.open_call(call("in flight"), WORST)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_kill_nine_nothing_is_lost_and_what_was_in_flight_is_known(
    path: Path, repository: Path
) -> None:
    code = DIES.format(tests=str(repository), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    with Store(path) as store:
        assert store.reply(call("paid").key) is not None
        assert store.ledger().held == Amount(0, 0)
        assert store.ledger().lost == WORST
        states = {row["messages"][-12:-3]: (row["state"], row["lost"]) for row in store.calls()}
        assert set(states.values()) == {("done", 0), ("lost", 1)}
        assert store.claim("r", "i1")
        assert store.open_call(call("in flight"), WORST) is Opened.OURS
    assert list(path.with_name(path.name + ".leases").iterdir()) == []


def test_items_are_claimed_by_one_of_the_living(path: Path) -> None:
    with Store(path) as one, Store(path) as other:
        one.put_run("r", {}, [("i1", {"question": "?"}), ("i2", {})])
        assert one.claim("r", "i1")
        assert not other.claim("r", "i1")
        one.settle("r", Outcome("i1", "accepted", result={"text": "x"}, keys=("k",)))
        assert not other.claim("r", "i1")
        assert other.claim("r", "i2")
        other.free("r", "i2")
        assert one.claim("r", "i2")
        one.settle("r", Outcome("i2", "error", "fill", "transport"))
        assert other.claim("r", "i2"), "an error is tried again"
        assert other.outcomes("r")["i1"].keys == ("k",)
        assert other.columns("i1") == {"question": "?"}
        assert other.find_items("i") == ["i1", "i2"]


WRITES = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from sglang_multiverse.data_pipeline.store.store import Opened, Store
from tests.data_pipeline.test_store import WORST, call, reply
with Store(Path({path!r})) as store:
    mine = 0
    for i in range(60):
        if store.open_call(call(str(i)), WORST) is Opened.OURS:
            store.close_call(call(str(i)).key, reply())
            mine += 1
print(mine)
"""


def test_two_processes_write_one_store(path: Path, repository: Path) -> None:
    code = textwrap.dedent(WRITES.format(tests=str(repository), path=str(path)))
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    shares = [int(process.communicate(timeout=60)[0]) for process in started]
    assert all(process.returncode == 0 for process in started)
    with Store(path) as store:
        ledger = store.ledger()
        busy = 60 - len(list(store.calls()))
        assert sum(shares) == 60 - busy
        assert ledger.paid.tokens == 15 * sum(shares)
        assert ledger.held == ledger.lost == Amount(0, 0)


def test_a_file_that_is_no_store_is_named_and_left_alone(path: Path) -> None:
    path.write_bytes(b"a shopping list, " * 100)
    with pytest.raises(StoreError, match="is not a curation store"):
        Store(path)
    assert path.read_bytes().startswith(b"a shopping list")


def test_a_store_of_a_later_release_is_refused(path: Path) -> None:
    with Store(path) as store:
        store._db.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match="newer release"):
        Store(path)


def test_the_lease_of_a_dead_process_is_free_without_waiting(path: Path) -> None:
    with Store(path) as store:
        child = os.fork()
        if child == 0:
            Store(path)
            os._exit(0)
        os.waitpid(child, 0)
        folder = path.with_name(path.name + ".leases")
        (dead,) = [file.name for file in folder.iterdir() if file.name != store.lease.owner]
        assert not store.lease.alive(dead)
        assert store.lease.alive(store.lease.owner)


def test_what_is_read_in_pages_is_all_there(path: Path) -> None:
    count = 2 * PAGE + 1
    items = [f"i{number:04}" for number in range(count)]
    with Store(path) as store:
        store._db.execute("PRAGMA synchronous = OFF")
        store.put_run("r", {}, [(item, {"n": item}) for item in reversed(items)])
        for number, item in enumerate(items):
            one = call(item, item=item, attempt=1 + number % 2)
            assert store.open_call(one, WORST) is Opened.OURS
            store.close_call(one.key, reply())
            status: Status = "accepted" if number % 3 else "rejected"
            store.settle("r", Outcome(item, status, code="c", result={}, keys=(one.key, one.key)))
        assert [one.item for one in store.each_outcome("r")] == items
        accepted = [item for number, item in enumerate(items) if number % 3]
        assert [one.item for one in store.each_outcome("r", "accepted")] == accepted
        assert [item for item, _ in store.statuses("r")] == items
        keys = [row["key"] for row in store.calls()]
        assert keys == sorted(keys) and len(keys) == count
        assert set(store.accounts(keys[:5])) == set(keys[:5])
        rejected = count - len(accepted)
        assert store.reasons("r") == [
            ("accepted", "", "c", len(accepted)),
            ("rejected", "", "c", rejected),
        ]
        (use,) = store.use("r")
        assert (use["calls"], use["repairs"]) == (count, count // 2), "a call counts once"
        assert use["cost"] == pytest.approx(0.01 * count)
        assert store.requests() == (count, 0)
        assert store.outcome("r", "nobody") is None
        assert store.columns_of([*items[:3], "nobody"]) == {item: {"n": item} for item in items[:3]}
        assert list(store.each_outcome("another run")) == []


def test_a_run_is_found_by_the_beginning_of_its_name(path: Path) -> None:
    with Store(path) as store:
        with pytest.raises(StoreError, match="start one"):
            store.run()
        for name in ("abc1", "abc2", "abc"):
            store.put_run(name, {}, {})
        assert [row["run"] for row in store.runs()] == ["abc", "abc2", "abc1"]
        assert [store.run(one)["run"] for one in (None, "abc1", "abc")] == ["abc", "abc1", "abc"]
        with pytest.raises(StoreError, match="3 runs that begin with 'ab': "):
            store.run("ab")
        with pytest.raises(StoreError, match="no run 'x'; it has abc, abc2, abc1"):
            store.run("x")


@pytest.mark.parametrize("version", [0, 1])
def test_a_database_of_another_kind_is_left_as_it_is(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE foo (a)")
        db.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="a database of another kind, not a curation store"):
        Store(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_only_reads_makes_no_store_of_an_empty_file(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="holds no store"):
        Store(path, new=False)
    assert path.read_bytes() == b""
    Store(path).close()
    Store(path, new=False).close()
