"""The GPU checks on a dry run: all of them but the kernels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch


def dry(repository: Path, tmp_path: Path, script: str, *options: str) -> dict[str, Any]:
    result = tmp_path / "result.json"
    command = [sys.executable, "-W", "ignore", str(repository / "benchmarks" / "gpu" / script)]
    done = subprocess.run(
        [*command, *options, "--json", str(result)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(result.read_text()))


def test_numerics_hold_where_kernels_are_dense(repository: Path, tmp_path: Path) -> None:
    found = dry(repository, tmp_path, "numerics.py", "--dry-run")
    assert found["failed"] == []
    assert found["machine"]["dry_run"]
    assert len(found["extend"]) == 12
    for case in found["extend"].values():
        assert case["segments"]["max"] > 0  # bfloat16 was compared with float32
        assert set(case) == {"segments", "custom_mask", "segments against custom_mask"}
    assert set(found["graph"]) == {"as captured", "shorter rows", "rows in another order"}
    assert len(found["cascade"]) == 2


def test_numerics_fail_where_a_plan_is_wrong(repository: Path, tmp_path: Path) -> None:
    """The check can fail: without the last token of each prefix it does."""
    code = f"""
import sys
sys.path.insert(0, {str(repository / "benchmarks" / "gpu")!r})
sys.argv = ["numerics.py", "--dry-run", "--json", {str(tmp_path / "result.json")!r}]
import numerics
from sglang_multiverse.attention.plan import plan
def wrong(extends):
    made = plan(extends)
    made.ranges[0, 1] += 1
    made.kv_indptr[1:] -= 1
    return made
numerics.plan = wrong
sys.exit(numerics.main())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False)
    assert done.returncode == 1
    failed = json.loads((tmp_path / "result.json").read_text())["failed"]
    assert any("segments" in line for line in failed)
    assert not any(line.endswith(": custom_mask") for line in failed)


def test_speed_has_a_row_for_every_case(repository: Path, tmp_path: Path) -> None:
    found = dry(repository, tmp_path, "speed.py", "--dry-run")
    for row in found["extend"]:
        assert {"segments", "causal", "custom_mask", "segments / causal"} <= set(row)
        assert row["custom_mask"]["mask_bytes"] == row["tokens"] ** 2
        assert row["runs"] > 1
    for row in found["decode"]:
        assert row["tokens_spared"] == row["groups"] * (row["paths"] - 1) * row["prefix"]
        assert {"cascade", "plain", "rule", "plain, graph / cascade"} <= set(row)
        assert {"ms", "graph_ms", "plan_ms"} <= set(row["cascade"]) & set(row["plain"])
    for row in found["flex"]:
        assert {"multiverse", "causal", "sdpa"} <= set(row)
        assert {f"forward: multiverse / {base}" for base in ("causal", "sdpa")} <= set(row)


def test_a_model_in_training_is_checked_and_timed(repository: Path, tmp_path: Path) -> None:
    found = dry(repository, tmp_path, "model.py", "--dry-run")
    assert found["failed"] == []
    checked = found["gradients"]
    assert checked["sdpa"]["mean gradient"] < 0.05  # bfloat16 against float32
    assert checked["causal"]["mean gradient"] > 5 * checked["sdpa"]["mean gradient"]
    (row,) = found["steps"]
    assert {"sdpa, by order", "sdpa, causal", "sdpa, by order / sdpa, causal"} <= set(row)


def test_the_documents_have_the_tables_that_are_printed(repository: Path) -> None:
    script = repository / "benchmarks" / "gpu" / "tables.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    printed = dict(re.findall(r"^## (\S+)\n\n(.*?)\n(?=\n## |\n*\Z)", done.stdout, re.S | re.M))
    page = (repository / "docs" / "gpu.md").read_text(encoding="utf-8")
    marked = re.findall(r"<!-- gpu-table: (\S+) -->\n(.*?)\n<!-- /gpu-table -->", page, re.S)
    assert dict(marked) == {name: text.strip() for name, text in printed.items()}
    assert len(marked) == 5


@pytest.mark.gpu
def test_numerics_hold_on_this_gpu(repository: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA")
    assert dry(repository, tmp_path, "numerics.py")["failed"] == []
