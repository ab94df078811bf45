"""What ``multiverse bench`` counts and writes, on the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from sglang_multiverse.bench import steps
from sglang_multiverse.bench.fork import fork_and_join
from sglang_multiverse.bench.forwards import in_parallel
from sglang_multiverse.bench.scripted import read_log, write_scripts
from sglang_multiverse.bench.shapes import Author, Fork, Shape, plain
from sglang_multiverse.bench.ways import Texts, Writer, timed
from sglang_multiverse.tiny import MODEL_DIR, task

from .client import Client

pytestmark = pytest.mark.weights("random")

#: A block in a path, and a second block.
NESTED = Shape(
    (
        5,
        Fork((3, 3), (Shape((4, Fork((2, 2), (plain(6), plain(9)), 3), 4)), plain(12)), 5),
        4,
        Fork((3, 3, 3), (plain(5), plain(14), plain(8)), 5),
        4,
    )
)


@pytest.fixture(scope="module")
def author(tokenizer: Any) -> Author:
    return Author(tokenizer)


def test_steps_stay_within_the_critical_path_alone_and_eight_at_once(
    overlap: Client, author: Author, tmp_path: Path
) -> None:
    scripts = steps.suite(author, paths=(1, 2, 3, 5, 8), lengths=(12, 50), traces=[NESTED] * 6)
    for batch in (1, 8):
        counts = steps.measure(overlap.server, scripts, tmp_path / f"{batch}.json", batch)
        found = steps.summary(counts)
        print(f"\n{batch} at once: {found}")
        assert found["answers"] == len(scripts)
        assert found["forks"] == 8 + 3 * 6
        assert found["mean_steps_per_critical_path"] <= 1.0
        assert found["max_steps_per_critical_path"] <= 1.0


def test_without_overlap_a_text_takes_the_forwards_its_structure_needs(
    tight: Client, author: Author, tmp_path: Path
) -> None:
    script = author.write(NESTED, 1)
    (count,) = steps.measure(tight.server, [script], tmp_path / "one.json", 1)
    assert count.steps == count.planned
    assert count.critical_path == script.critical_path


def test_a_client_over_stock_writes_the_same_text(
    stock: Client, author: Author, tmp_path: Path
) -> None:
    scripts = [author.write(NESTED, seed) for seed in range(3)]
    texts = Texts(scripts, tmp_path / "texts.json")
    write_scripts(scripts, texts.path)
    # Whatever differed from the script would raise.
    timed(stock.server, texts, range(3), Writer.by_client)
    run = timed(stock.server, texts, range(3), Writer.whole, stream=True)
    assert run.seconds > 0
    assert run.cpu_seconds > 0


def test_the_log_of_forwards_shows_a_fork_and_a_join(
    tight: Client, author: Author, tmp_path: Path
) -> None:
    script = author.write(NESTED, 2)
    texts, log = Texts([script], tmp_path / "texts.json"), tmp_path / "log"
    write_scripts(texts.scripts, texts.path)
    timed(tight.server, texts, [0], Writer.whole, log=log)
    forwards = read_log(log)
    fork, join, step = fork_and_join(script, forwards)
    assert (fork.steps, join.steps) == (1, 1)
    assert 0 < step.seconds < 1
    assert sum(offset >= 0 for one in forwards for _, offset in one.sampled) >= count_sampled(
        script
    )


def count_sampled(script: Any) -> int:
    return sum(work.rows for work in in_parallel(script)) - script.trace.n_paths


@pytest.mark.weights("tiny")
@pytest.mark.nightly
def test_sglangs_own_benchmark_runs_unchanged_against_a_server_that_forks(
    overlap: Client, tmp_path: Path
) -> None:
    questions = [
        task.prompt(problem, "parallel") for problem in islice(task.generate(5, "test"), 8)
    ]
    rows = [{"conversations": [{"content": text}, {"content": "-"}]} for text in questions]
    dataset, output = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    dataset.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    before = forks_so_far(overlap)
    command = [
        *(sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang"),
        *("--port", str(overlap.server.port), "--model", str(MODEL_DIR)),
        *("--dataset-name", "custom", "--dataset-path", str(dataset), "--apply-chat-template"),
        *("--sharegpt-output-len", "600", "--disable-ignore-eos", "--num-prompts", "8"),
        *("--max-concurrency", "4", "--output-file", str(output), "--disable-tqdm"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    result = json.loads(output.read_text(encoding="utf-8").splitlines()[-1])
    assert result["completed"] == 8
    # Counted by the server, all paths included.
    assert result["total_output_tokens"] > 8 * 100
    assert forks_so_far(overlap) - before >= 4


def forks_so_far(client: Client) -> int:
    (state,) = client.server.request("/server_info")["internal_states"]
    return int(state["multiverse"]["totals"]["forks"])
