"""Examples that need no server; ``tests/e2e/test_examples.py`` runs the others."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from sglang_multiverse.text import parse_text, serialise

from .running import EXAMPLES, run


def test_the_list_of_examples_is_complete() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \[\S+\]\((\S+)\)", text, re.MULTILINE))
    there = {one.name for kind in ("*.py", "*.ipynb") for one in EXAMPLES.glob(kind)}
    assert listed == there | {"tiny/README.md"}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda one: one.stem)
def test_an_example_is_read_in_a_minute_and_stands_alone(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert f"python examples/{script.name}" in text
    assert "import tests" not in text
    assert "from tests" not in text


def test_fine_tuning_lowers_the_loss_and_the_result_answers(tmp_path: Path) -> None:
    said = run("finetune.py", "--out", tmp_path / "out", "--steps", 8, cwd=tmp_path)
    found = re.search(r"loss of the first step (\S+), of the last (\S+)", said)
    assert found
    assert float(found[2]) < float(found[1])
    assert "{'layout': 1}" in said
    measured = re.search(r"(\d+) tokens in (\d+) steps, (\S+)× parallel", said)
    assert measured
    assert int(measured[2]) < int(measured[1])
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_curating_from_cassettes_gives_a_corpus(tmp_path: Path) -> None:
    """One reply of the cassettes is wrong, so the corpus shows a repair."""
    said = run("curate.py", "--out", tmp_path / "out", cwd=tmp_path)
    assert "2 accepted, 0 rejected, 0 failed" in said
    (data,) = (tmp_path / "out" / "corpus" / "data").glob("*.parquet")
    rows = parquet.read_table(data).to_pylist()
    assert len(rows) == 2
    assert max(row["repairs"] for row in rows) >= 1
    for row in rows:
        text = row["deepseek_thinking_trajectory_parallel"]
        assert serialise(parse_text(text)) == text
        assert text.count("<Path>") >= 2
