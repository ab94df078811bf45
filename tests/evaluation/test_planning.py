"""What a dry run counts, and that it asks nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.evaluation import questions
from sglang_multiverse.evaluation.planning import plan
from sglang_multiverse.evaluation.suite import load

EXAMPLES = Path(__file__).parents[2] / "examples" / "evaluation"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(data: str) -> None:
        raise AssertionError(f"the Hub was asked for {data}")

    monkeypatch.setattr(questions, "_of_hub", asked)


def dry(*words: str) -> str:
    said = CliRunner().invoke(app, ["eval", "run", "--dry-run", *words])
    assert said.exit_code == 0, said.output
    return said.output


def test_the_papers_suite_is_counted_without_hub_or_files() -> None:
    planned = plan(load(EXAMPLES / "paper.yaml"))
    assert sum(one.answers for one in planned) == 7236
    assert sum(one.tokens or 0 for one in planned) == 40_395_840
    assert {one.lacking for one in planned} == {None, "gpqa_diamond.csv"}
    said = dry(str(EXAMPLES / "paper.yaml"), "--tokens-per-second", "5000", "--price", "20")
    assert "2.2 h, 44.88 at 20 an hour" in said
    assert "gpqa_diamond.csv is not there yet" in said


def test_a_limit_bounds_what_is_counted() -> None:
    said = dry(str(EXAMPLES / "paper.yaml"), "--limit", "10")
    counted = [line.split()[:4] for line in said.splitlines()]
    assert ["multiverse:", "aime24", "parallel", "80"] in counted
    assert ["multiverse:", "math500", "parallel", "10"] in counted


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1?", "answer": 2}\n')
    (tmp_path / "suite.yaml").write_text(
        "name: mine\nservers: {s: {base_url: 'http://h:1'}}\nepochs: 3\n"
        "arms: [{task: math500, data: rows.jsonl}]\n"
    )
    (one,) = plan(load(tmp_path / "suite.yaml"))
    assert (one.answers, one.tokens) == (3, 3 * 4400)


def test_tokens_that_are_not_known_are_not_none() -> None:
    tiny = str(EXAMPLES / "tiny.yaml")
    said = dry(tiny, "--tokens-per-second", "100")
    assert " 0 tokens" not in said and "0.0 h" not in said
    assert "--mean-tokens N says how long" in said
    said = dry(tiny, "--tokens-per-second", "100", "--mean-tokens", "700")
    assert "560,000 tokens" in said and "1.6 h" in said and "unknown" not in said
