"""Throughput of the data pipeline: synthetic items against a replay server in its own process.

    python benchmarks/curation.py --items 1000 --latency 0.5 --concurrency 64
    python benchmarks/curation.py --stages 10
    python benchmarks/curation.py --export 20000

Runs half of the items' work, kills the process with SIGKILL, resumes, and reruns. Prints items a
second, calls, what was asked for twice, and the peak memory of the curating process. With
``--stages``: CPU of the stages and gates alone, and where it goes. With ``--export``: writes a
store of so many accepted items and exports it.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sglang_multiverse.data_pipeline.corpus.summary import summarise  # noqa: E402
from sglang_multiverse.data_pipeline.recipe import Recipe  # noqa: E402
from sglang_multiverse.data_pipeline.store.store import Store  # noqa: E402
from sglang_multiverse.data_pipeline.teacher.cassette import Replied  # noqa: E402
from sglang_multiverse.data_pipeline.teacher.task import Task  # noqa: E402
from tests.data_pipeline.replay import ReplayServer  # noqa: E402
from tests.data_pipeline.synthetic import Item, fill_store  # noqa: E402


def serve(items: int, latency: float) -> None:
    """The server process: prints its address, then serves until it is killed."""
    by_question = {}
    for number in range(items):
        item = Item(number)
        by_question[item.question] = item

    def answer(question: str, task: Task) -> Replied | None:
        item = by_question.get(question)
        return item.reply(task) if item else None

    server = ReplayServer(latency=latency, answerer=answer)
    print(server.url, flush=True)
    server.serve_forever()


def progress(store: Path) -> int:
    """Items settled so far, looked up without taking part in the store."""
    if not store.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5) as db:
            query = "SELECT count(*) FROM outcomes WHERE status IS NOT NULL"
            return int(db.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # its tables are being made
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds per reply")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--processes", type=int, help="as of `multiverse curate run`")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stages", type=int, metavar="ITEMS", help="profile the stages instead")
    parser.add_argument("--export", type=int, metavar="ITEMS", help="measure an export instead")
    options = parser.parse_args()
    if options.export:
        with tempfile.TemporaryDirectory() as name:
            bench_export(Path(name), options.export)
        return
    if options.stages:
        bench_stages(options.stages)
        return
    if options.serve:
        serve(options.items, options.latency)
        return
    with tempfile.TemporaryDirectory() as name:
        bench(Path(name), options)


def bench(folder: Path, options: argparse.Namespace) -> None:
    items, rows, store = options.items, folder / "rows.jsonl", folder / "store.sqlite"
    with rows.open("w") as file:
        for number in range(items):
            file.write(Item(number).row() + "\n")
    average = rows.stat().st_size / items
    arguments = ["--items", str(items), "--latency", str(options.latency)]
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        config = folder / "curate.yaml"
        config.write_text(
            f"source: {{files: [{rows}]}}\n"
            f"endpoint: {{base_url: {server.stdout.readline().strip()}, model: teacher, "
            f"concurrency: {options.concurrency}}}\n"
            "sampling: {max_tokens: 4000}\nprices: {input: 1, output: 1}\n"
        )
        command = [sys.executable, "-m", "sglang_multiverse.cli", "curate", "run", str(config)]
        command += ["--store", str(store)]
        if options.processes is not None:
            command += ["--processes", str(options.processes)]
        print(
            f"{items:,} items of {average / 1024:.1f} KiB, {options.latency:g} s a reply, "
            f"{options.concurrency} at once"
        )
        first = time.monotonic()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while progress(store) < items // 2:
            if process.poll() is not None:
                raise SystemExit("the run ended before half of it was done")
            time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        half, first = progress(store), time.monotonic() - first
        print(f"killed after {first:.1f} s with {half:,} items done: {half / first:.2f} items/s")
        before = cpu_seconds()
        second = measured(command)
        rest, busy = items - half, cpu_seconds() - before
        print(
            f"resumed: {rest:,} items in {second:.1f} s: {rest / second:.2f} items/s, "
            f"{busy / rest:.2f} s of CPU an item"
        )
        print(f"rerun: {measured(command):.1f} s")
        per_item = busy / rest
        print(
            f"peak memory of a curating process: {peak():,.0f} MiB; "
            f"store {store.stat().st_size / 2**20:,.1f} MiB"
        )
        account(store)
        before = cpu_seconds()
        server.kill()
        server.wait()
        served = (cpu_seconds() - before) / items
        print(
            f"the server took {served:.3f} s of CPU an item; two free cores do at most "
            f"{2 / (per_item + served):.1f} items/s, without it {2 / per_item:.1f}"
        )
    finally:
        server.kill()
        server.wait()


def bench_stages(items: int) -> None:
    recipe = Recipe("teacher")
    Item(0).curated(recipe)
    begun = time.process_time()
    for number in range(1, items + 1):
        Item(number).curated(recipe)
    print(f"{(time.process_time() - begun) / items:.3f} s of CPU an item in stages and gates")
    profile = cProfile.Profile(time.process_time)
    with profile:
        for number in range(items + 1, 2 * items + 1):
            Item(number).curated(recipe)
    stats = pstats.Stats(profile)
    stats.sort_stats("cumulative").print_stats("data_pipeline|lexer|structure", 30)


def bench_export(folder: Path, items: int) -> None:
    store, out = folder / "store.sqlite", folder / "out"
    fill_store(store, items)
    command = [sys.executable, "-m", "sglang_multiverse.cli", "curate"]
    before = cpu_seconds()
    status = measured([*command, "status", "--store", str(store)])
    print(
        f"{items:,} accepted items in {store.stat().st_size / 2**20:,.0f} MiB; status in "
        f"{status:.1f} s, {cpu_seconds() - before:.1f} s of CPU, peak memory {peak():,.0f} MiB"
    )
    before = cpu_seconds()
    took = measured([*command, "export", str(out), "--store", str(store)])
    shards = {kind: len(list((out / kind).iterdir())) for kind in ("data", "mixed")}
    size = sum(file.stat().st_size for file in out.rglob("*.parquet")) / 2**20
    print(
        f"exported in {took:.0f} s, {(cpu_seconds() - before):.0f} s of CPU; shards {shards}, "
        f"{size:,.0f} MiB; peak memory {peak():,.0f} MiB"
    )


def peak() -> float:
    """MiB that the largest of the processes waited for so far held."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def measured(command: list[str]) -> float:
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - start


def cpu_seconds() -> float:
    """CPU time of the processes waited for so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def account(path: Path) -> None:
    with Store(path) as store:
        summary = summarise(store)
    calls = sum(use.calls for use in summary.stages.values())
    print(
        f"{summary.by_status['accepted']:,} accepted of {len(summary.items):,}; {calls:,} replies, "
        f"{summary.unanswered:,} requests asked for twice (in flight at the kill)"
    )


if __name__ == "__main__":
    main()
