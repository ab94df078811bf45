"""Throughput of the data pipeline: synthetic items against a replay server in its own process.

    python benchmarks/curation.py --items 1000 --latency 0.5 --concurrency 64

Runs half of the items' work, kills the process with SIGKILL, resumes, and reruns. Prints items a
second, calls, what was asked for twice, and the peak memory of the curating process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
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

from sglang_multiverse.data_pipeline.store.store import Store  # noqa: E402
from sglang_multiverse.data_pipeline.teacher.cassette import Replied  # noqa: E402
from sglang_multiverse.data_pipeline.teacher.task import Task  # noqa: E402
from tests.data_pipeline.replay import ReplayServer  # noqa: E402

#: Sentences per step; a chain has two opening steps, `BLOCKS` groups of three, and an end.
SENTENCES, BLOCKS, PATHS = 12, 4, 3


class Item:
    """A chain of plausible length with known steps, and the replies a teacher would give to it."""

    def __init__(self, number: int):
        self.number = number
        self.question = f"Synthetic problem {number}: how many marbles are in the {number}th jar?"
        self.random = random.Random(number)
        self.kinds = ["step", *(["group", "step"] * BLOCKS)]
        self.texts: list[str] = []
        for kind in self.kinds:
            self.texts += [self.step() for _ in range(PATHS if kind == "group" else 1)]
        self.texts[-1] += f" The final answer is \\boxed{{{number}}}."

    def step(self) -> str:
        """Some sentences with numbers in them."""
        draw = self.random.randint
        return " ".join(
            f"Jar {draw(1, 999)} holds {draw(1, 999)} marbles, of which {draw(1, 999)} are blue "
            f"and $x_{{{draw(1, 99)}}} < {draw(1, 999)}$ are not."
            for _ in range(SENTENCES)
        )

    @property
    def chain(self) -> str:
        return "\n".join(self.texts)

    def reply(self, task: Task) -> Replied:
        made = {
            "outline-steps": self.steps,
            "outline-groups": self.groups,
            "fill": self.fill,
            "frame": self.frame,
        }
        return Replied(made[task.stage]() if task.stage in made else self.block(task.subject))

    def steps(self) -> str:
        return "\n".join(f"S{n}: Count the jars of step {n}" for n in self.labels())

    def labels(self) -> range:
        return range(1, len(self.texts) + 1)

    def groups(self) -> str:
        lines, label = [], 0
        for kind in self.kinds:
            branches = []
            for _ in range(PATHS if kind == "group" else 1):
                label += 1
                branches.append(f"S{label}: Count the jars of step {label}")
            if kind == "group":
                lines += ["<parallel>", "Reason: other jars.", *branches, "</parallel>"]
            else:
                lines += branches
        return "\n".join(lines)

    def fill(self) -> str:
        lines, at = [], 1
        for label, text in zip(self.labels(), self.texts, strict=True):
            count = text.count(". ") + 1
            lines.append(f"S{label}: {at}-{at + count - 1}")
            at += count
        return "\n".join(lines)

    def frame(self) -> str:
        lines = []
        for block in range(1, BLOCKS + 1):
            lines.append(f"B{block}")
            lines += [f"{n}: Count the jars of part {block}.{n}." for n in range(1, PATHS + 1)]
            lines.append(f"Conclusion: The jars of part {block} are counted.")
        return "\n".join(lines)

    def block(self, subject: str) -> str:
        number = int(subject[1:])
        first = (number - 1) * (PATHS + 1) + 1
        outlines = "".join(
            f"<Outline>\n{n}: Count the jars of part {number}.{n}.\n</Outline>\n"
            for n in range(1, PATHS + 1)
        )
        paths = "".join(
            f"<Path>\n{n}: {self.texts[first + n - 1]}\n</Path>\n" for n in range(1, PATHS + 1)
        )
        return (
            f"<Parallel>\n<Goal>\n{outlines}</Goal>\n{paths}<Conclusion>\n"
            f"The jars of part {number} are counted.\n</Conclusion>\n</Parallel>"
        )

    def row(self) -> str:
        return json.dumps(
            {
                "question": self.question,
                "deepseek_thinking_trajectory": self.chain,
                "deepseek_attempt": f"There are $\\boxed{{{self.number}}}$.",
                "solution": str(self.number),
            }
        )


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
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
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
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"peak memory of a curating process: {memory:,.0f} MiB; "
            f"store {store.stat().st_size / 2**20:,.1f} MiB"
        )
        account(store)
    finally:
        server.kill()
        server.wait()


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
        calls = list(store.calls())
        lost = sum(call["lost"] for call in calls)
        statuses = [outcome.status for outcome in store.outcomes(store.run()["run"]).values()]
    print(
        f"{statuses.count('accepted'):,} accepted of {len(statuses):,}; {len(calls):,} replies, "
        f"{lost:,} requests asked for twice (in flight at the kill)"
    )


if __name__ == "__main__":
    main()
