"""Examples that ask a server, share the tests'; the engine and the notebook start their own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from sglang_multiverse.text import parse_text, serialise
from sglang_multiverse.tiny import MODEL_DIR, task
from sglang_multiverse.training.grpo.engine import EngineClient
from tests.examples.running import EXAMPLES, run

from .client import Client

pytestmark = pytest.mark.weights("tiny")


def test_openais_client_gets_text_and_figures(overlap: Client, tmp_path: Path) -> None:
    said = run("openai_client.py", "--url", overlap.server.url, cwd=tmp_path)
    text, _, figures = said.partition("\nfinish reason: ")
    assert text.strip().endswith("Answer: C = 1068")
    assert figures.startswith("stop")
    counted = [int(one) for one in re.findall(r": (\d+)", figures)]
    tokens, critical_path = counted[:2]
    degree = re.search(r"parallelism: (\S+)", figures)
    assert degree
    assert float(degree[1]) == pytest.approx(tokens / critical_path, abs=0.006)
    assert "forks: 1, paths: 3" in figures


def test_a_stream_names_the_path_of_every_line(overlap: Client, tmp_path: Path) -> None:
    """Paths take turns on the screen, and each path's lines, put together, are its own."""
    said = run("stream_paths.py", "--url", overlap.server.url, cwd=tmp_path)
    split = [line.partition("│") for line in said.splitlines() if "│" in line]
    lines = [(path.strip(), text.strip()) for path, _, text in split]
    assert {path for path, _ in lines} == {"trunk", "1.1", "1.2", "1.3"}
    turns = [path for path, text in lines if path != "trunk" and not text.startswith("──")]
    changes = sum(a != b for a, b in itertools.pairwise(turns))
    assert changes > 5, "one path after another would change twice"
    for number, name in enumerate("ABC", 1):
        own = [text for path, text in lines if path == f"1.{number}"]
        assert own[1].startswith(f"{number}: {name} = ")
        assert own[-2] == "</Path>"
        assert own[-1].startswith("── closes")
    assert lines[-1][1].startswith("── ends: stop, ")
    assert lines[-2] == ("trunk", "Answer: C = 1068")


def test_a_batch_that_was_cut_goes_on(overlap: Client, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    said = run("batch.py", answers, "--url", overlap.server.url, cwd=tmp_path)
    assert said.startswith("24 asked, 0 answered before")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    right = sum(task.grade(row["answer"], task.understand(row["question"])) for row in rows)
    assert right >= 20
    assert sum(row["multiverse_forks"] > 0 for row in rows) >= 15
    kept = "".join(json.dumps(row) + "\n" for row in rows[:20])
    answers.write_text(kept)
    said = run("batch.py", answers, "--url", overlap.server.url, cwd=tmp_path)
    assert said.startswith("4 asked, 20 answered before")
    again = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["question"] for row in again] == [row["question"] for row in rows]


@pytest.fixture
def url(overlap: Client) -> Iterator[str]:
    """Of a server whose weights may be replaced; afterwards it has its own again."""
    yield overlap.server.url
    EngineClient(overlap.server.url).update_weights(MODEL_DIR, "shipped")


@pytest.mark.nightly
def test_grpo_trains_on_what_the_server_samples(url: str, tmp_path: Path) -> None:
    said = run("grpo.py", "--url", url, "--steps", 2, "--out", tmp_path / "out", cwd=tmp_path)
    steps = re.findall(r"step (\d): reward (\S+), right (\S+), forked (\S+), .* (\S+) nats", said)
    assert [step for step, *_ in steps] == ["1", "2"]
    assert all(float(gap) < 1e-2 for *_, gap in steps)
    trained = (tmp_path / "out" / "model" / "model.safetensors").read_bytes()
    assert trained != (MODEL_DIR / "model.safetensors").read_bytes()


def test_the_engine_runs_in_a_process_of_ones_own(tmp_path: Path) -> None:
    """On a CPU, with no variable set outside."""
    said = run("engine.py", cwd=tmp_path)
    text = said[said.index("<Think>") : said.index("paths at a time: all")].rstrip("\n")
    assert serialise(parse_text(text)) == text
    assert text.endswith("Answer: C = 1068")
    steps = dict(re.findall(r"paths at a time: (\S+), forward steps: (\d+)", said))
    assert int(steps["all"]) < int(steps["1"])


@pytest.mark.nightly
def test_the_notebook_runs_and_prints_what_was_committed() -> None:
    """It starts and stops a server of its own. Pictures are drawn, and not compared."""
    book = nbformat.read(EXAMPLES / "traces.ipynb", as_version=4)
    nbformat.validate(book)
    committed = [printed(cell) for cell in book.cells]
    resources = {"metadata": {"path": str(EXAMPLES)}}
    NotebookClient(book, timeout=300, resources=resources).execute()
    assert [printed(cell) for cell in book.cells] == committed
    drawn = [out for cell in book.cells for out in cell.get("outputs", []) if "data" in out]
    assert sum("image/png" in out["data"] for out in drawn) == 2


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(out["text"] for out in cell.get("outputs", []) if out.get("name") == "stdout")
