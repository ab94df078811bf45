"""Answers drawn from the real server, gated, and exported."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.dialect import Dialect
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import task

from .client import Client

pytestmark = pytest.mark.weights("tiny")


def test_drawn_from_the_served_model(
    overlap: Client, tokenizer: Any, dialect: Dialect, tmp_path: Path
) -> None:
    problems = {str(one): one for one in islice(task.generate(5, "train"), 8)}
    rows = [{"question": text, "answer": str(one.answer)} for text, one in problems.items()]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = {
        "source": {"files": [str(tmp_path / "q.jsonl")]},
        "endpoint": {"base_url": f"{overlap.server.url}/v1", "model": "any"},
        "sampling": {"temperature": 0.7, "max_tokens": 600},
        "sample": {"n": 2, "choose": "all", "comparison": "words"},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(told))
    store = ["--store", str(tmp_path / "s.sqlite")]
    done = CliRunner().invoke(app, ["curate", "sample", str(tmp_path / "c.yaml"), *store])
    assert done.exit_code == 0, done.output
    assert "16 answers to 8 questions" in done.output
    out = str(tmp_path / "out")
    assert CliRunner().invoke(app, ["curate", "export", out, *store, "--no-plots"]).exit_code == 0
    import pyarrow.parquet as pq

    (data,) = (tmp_path / "out" / "data").iterdir()
    found = pq.read_table(data).to_pylist()
    assert len(found) >= 6
    for row in found:
        assert task.grade(row["text"], problems[row["question"]])
        ids = tokenizer.encode(row["text"], add_special_tokens=False)
        assert parse(ids, dialect).blocks, "tags came back as they were sampled"
