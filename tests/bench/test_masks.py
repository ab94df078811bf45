"""The tables of docs/attention.md are those of the results they were made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RESULTS = Path("benchmarks/results/masks.json")


def test_the_page_shows_the_results(repository: Path):
    shown = subprocess.run(
        [sys.executable, "benchmarks/masks.py", "--show", str(RESULTS)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = (repository / "docs" / "attention.md").read_text(encoding="utf-8")
    rows = [line for line in shown.splitlines() if line and not set(line) <= set("|- ")]
    assert len(rows) > 15
    assert [row for row in rows if row not in page] == []


def test_segments_cost_what_causal_attention_costs(repository: Path):
    found = json.loads((repository / RESULTS).read_text(encoding="utf-8"))
    ratios = [one["segments / causal"] for one in found["steps"]]
    assert len(ratios) == 6
    assert max(ratios) <= 1.05
