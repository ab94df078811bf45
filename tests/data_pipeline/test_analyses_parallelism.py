"""``multiverse analyse parallelism``: on texts whose figures are known, and on real traces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.data_pipeline.analyses.intervals import bootstrap_mean, wilson
from sglang_multiverse.data_pipeline.analyses.parallelism import Statistics, measure
from sglang_multiverse.lexer import lex
from sglang_multiverse.structure import Trace, parse
from tests.conftest import Rows
from tests.core.tokenizers_made import byte_level, save


def block(*paths: str, conclusion: str = "Done.") -> str:
    outlines = "".join(f"<Outline>\n{i}: P\n</Outline>\n" for i in range(1, len(paths) + 1))
    written = "".join(f"<Path>\n{i}: {one}\n</Path>\n" for i, one in enumerate(paths, start=1))
    return (
        f"<Parallel>\n<Goal>\n{outlines}</Goal>\n{written}<Conclusion>\n{conclusion}\n"
        "</Conclusion>\n</Parallel>\n"
    )


def trace(text: str) -> Trace:
    lexed = lex(text)
    return parse(lexed.ids, lexed.dialect)


def analyse(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["analyse", "parallelism", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_a_block_saves_its_shorter_paths_and_costs_goal_tags_and_conclusion() -> None:
    longer = " ".join(["word"] * 200)
    (good,) = measure(trace(block(longer, longer))).blocks
    (bad,) = measure(trace(block("word", "word"))).blocks
    # Both pay the same for goal, conclusion and tags; the long one saves 199 words more.
    assert good.saving - bad.saving == 199
    assert bad.saving < 0 < good.saving
    assert good.branches == 2 and good.depth == 1


def test_the_saving_of_a_block_is_what_net_parallelism_gains_by_it() -> None:
    text = "One two three.\n" + block("a b c d e", "f g h") + "Four five.\n"
    one = measure(trace(text))
    (found,) = one.blocks
    assert one.whole.content_tokens - one.whole.critical_path_tokens == found.saving


def test_inner_blocks_count_by_depth_and_a_cut_block_by_itself() -> None:
    inner = block("x y", "z").rstrip("\n")
    nested = measure(trace(block(f"see\n{inner}", "other")))
    assert [(one.depth, one.branches) for one in nested.blocks] == [(1, 2), (2, 2)]
    cut = measure(trace(block("a b c", "d e f").partition("<Conclusion>")[0]))
    assert cut.blocks == [] and cut.open_blocks == 1 and cut.whole.blocks == 1


def test_a_corpus_without_blocks_is_not_parallel() -> None:
    statistics = Statistics("pieces", 0, [measure(trace("Just text.\n"))])
    row = statistics.row()
    assert row["all"]["degree"]["mean"] == row["all"]["net"]["mean"] == 1.0
    assert row["with_blocks"] == 0 and row["forked"] == {} and row["branches"] == {}
    assert row["critical_path"] == {"blocks": 0, "shortened": 0}


@pytest.mark.parametrize("column", ["output", "text", "deepseek_thinking_trajectory_parallel"])
def test_the_columns_it_knows(tmp_path: Path, column: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({column: block("a", "b")}) + "\n")
    row = json.loads(analyse(file, "--json"))
    assert (row["texts"], row["with_blocks"], row["branches"]) == (1, 1, {"2": 1})


def test_prompt_and_completion_as_a_trainer_takes_them(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="reads parquet")
    import pyarrow.parquet as parquet

    said = [{"role": "assistant", "content": block("a", "b", "c")}]
    rows = {"prompt": [[{"role": "user", "content": "Q"}]], "completion": [said]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "mixed.parquet")
    assert json.loads(analyse(tmp_path / "mixed.parquet", "--json"))["branches"] == {"3": 1}


def test_bad_rows_are_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"output": "fine"}\nnot json\n[1]\n{"other": 1}\n{"output": ["a"]}\n')
    said = analyse(file, exit_code=1)
    for number, reason in (
        (2, "not JSON"),
        (3, "a JSON object"),
        (4, "no field"),
        (5, "holds list"),
    ):
        assert f"rows.jsonl:{number}: " in said and reason in said
    assert "1 texts" in said and "4 unreadable" in said


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    assert "error:" in analyse(tmp_path / "missing.jsonl", exit_code=2)
    (tmp_path / "empty.jsonl").touch()
    assert "holds no row" in analyse(tmp_path / "empty.jsonl", exit_code=2)
    (tmp_path / "no.parquet").write_text("x")
    assert "error:" in analyse(tmp_path / "no.parquet", exit_code=2)
    (tmp_path / "rows.jsonl").write_text('{"output": "fine"}\n')
    said = analyse(tmp_path / "rows.jsonl", "--tokenizer", tmp_path, exit_code=2)
    assert "tokenizer.json" in said


def test_tokens_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    save(byte_level(), tmp_path / "tokenizer")
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"output": block("a", "b")}) + "\n")
    pieces = json.loads(analyse(file, "--json"))
    row = json.loads(analyse(file, "--json", "--tokenizer", tmp_path / "tokenizer"))
    assert row["tokens_by"] == "tokenizer" and row["branches"] == {"2": 1}
    assert row["all"]["tokens_mean"] != pieces["all"]["tokens_mean"]


def test_intervals_hold_what_they_should() -> None:
    low, high = wilson(0, 10)
    assert low == 0 and 0.25 < high < 0.31
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = bootstrap_mean([0.0, 1.0] * 50, seed=1)
    assert 0.38 < low < 0.5 < high < 0.62
    assert bootstrap_mean([1.0, 2.0, 4.0], 3) == bootstrap_mean([1.0, 2.0, 4.0], 3)


def test_real_traces_have_the_figures_of_their_labels(
    traces: Callable[[str], Rows], shared_dir: Path
) -> None:
    """Pieces stand for tokens, so figures agree closely, not to the last digit."""
    lines = (shared_dir / "traces" / "labels.jsonl").read_text().splitlines()
    labels = {one["id"]: one for one in map(json.loads, lines)}
    complete = Statistics("pieces", 0)
    wanted: list[float] = []
    for row in traces("wellformed"):
        label = labels[row["id"]]
        found = measure(trace(row["output"]))
        assert found.whole.blocks == label["n_blocks"], row["id"]
        assert found.whole.depth == label["max_depth"], row["id"]
        assert found.whole.degree == pytest.approx(label["parallelism"], abs=0.09), row["id"]
        if label["category"].startswith("P1"):
            complete.traces.append(found)
            wanted.append(label["parallelism"])
    row = complete.row()
    mean = sum(wanted) / len(wanted)
    assert row["all"]["degree"]["mean"] == pytest.approx(mean, abs=0.005)
    assert row["all"]["net"]["mean"] < 1, "goals and conclusions cost more than paths save"
    assert row["critical_path"]["shortened"] < row["blocks"] / 4
