"""``multiverse inspect`` on real traces, on bad input and on standard input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from tests.conftest import Rows
from tests.core.tokenizers_made import byte_level, save

KEYS = [
    "id",
    "well_formed",
    "blocks",
    "paths",
    "depth",
    "issues",
    "tokens",
    "critical_path_tokens",
    "parallelism",
    "net_parallelism",
]

BLOCK = (
    "<Think>\nLet's think in parallel.\n<Parallel>\n<Goal>\n<Outline>\n1: Add.\n</Outline>\n"
    "<Outline>\n2: Subtract.\n</Outline>\n</Goal>\n<Path>\n1: It is 42.\n</Path>\n"
    "<Path>\n2: It is not 17.\n</Path>\n<Conclusion>\nDone.\n</Conclusion>\n</Parallel>\n"
    "So.\n</Think>\n\nAnswer: 42"
)


def inspect(*args: str | Path, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, args)], input=stdin)


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def agreement(found: list[dict[str, Any]], labels: Rows) -> str:
    """A table of agreement with the labels on blocks and depth, by category."""
    by_id = {label["id"]: label for label in labels}
    total, same, whole = Counter[str](), Counter[str](), Counter[str]()
    for row in found:
        label = by_id[row["id"]]
        kind = label["category"][:2]
        total[kind] += 1
        same[kind] += (row["blocks"], row["depth"]) == (label["n_blocks"], label["max_depth"])
        whole[kind] += row["well_formed"]
    lines = [f"{kind}  {same[kind]:3}/{n:<3} {whole[kind]:4}" for kind, n in sorted(total.items())]
    return "\n".join(["    agree   well formed", *lines])


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(byte_level(), tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("tokens", ["pieces", "tokenizer"])
def test_it_agrees_with_the_labels_on_every_well_formed_trace(
    tokens: str, shared_dir: Path, traces: Callable[[str], Rows], tokenizer_folder: Path
) -> None:
    options = ["--tokenizer", tokenizer_folder] if tokens == "tokenizer" else []
    result = inspect(shared_dir / "traces" / "wellformed.jsonl", "--json", *options)
    assert result.exit_code == 0
    found = rows(result)
    print(agreement(found, traces("labels")))
    labels = {label["id"]: label for label in traces("labels")}
    assert len(found) == len(traces("wellformed"))
    for row in found:
        label = labels[row["id"]]
        assert (row["blocks"], row["depth"]) == (label["n_blocks"], label["max_depth"]), row["id"]
        # P1 is complete, P2 cut in sequential text: a strict parser takes the first only.
        assert row["well_formed"] == label["category"].startswith("P1"), row["id"]
        if not row["well_formed"]:
            assert [issue["code"] for issue in row["issues"]] == ["unclosed_think"]


@pytest.mark.parametrize("tokens", ["pieces", "tokenizer"])
@pytest.mark.parametrize("name", ["malformed", "plain"])
def test_it_survives_every_other_trace(
    name: str, tokens: str, shared_dir: Path, traces: Callable[[str], Rows], tokenizer_folder: Path
) -> None:
    options = ["--tokenizer", tokenizer_folder] if tokens == "tokenizer" else []
    result = inspect(shared_dir / "traces" / f"{name}.jsonl", "--json", *options)
    assert result.exit_code == 0
    assert [row["id"] for row in rows(result)] == [row["id"] for row in traces(name)]
    print(agreement(rows(result), traces("labels")))
    people = inspect(shared_dir / "traces" / f"{name}.jsonl", *options)
    assert people.exit_code == 0
    trees = inspect(shared_dir / "traces" / f"{name}.jsonl", "--tree", *options)
    assert trees.exit_code == 0


def test_pieces_come_close_to_the_tokens_of_the_published_vocabulary(
    shared_dir: Path, traces: Callable[[str], Rows]
) -> None:
    found = {
        row["id"]: row
        for row in rows(inspect(shared_dir / "traces" / "wellformed.jsonl", "--json"))
    }
    labels = [
        one for one in traces("labels") if one["id"] in found and one["source"] != "gpqa"
    ]  # the words of gpqa rows were replaced
    ratio = sum(found[one["id"]]["tokens"] for one in labels) / sum(one["tokens"] for one in labels)
    print(f"pieces per token: {ratio:.3f}")
    assert 0.85 < ratio < 1.15


def test_the_figures_of_one_block_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"id": 7, "output": BLOCK}) + "\n")
    (row,) = rows(inspect(file, "--json"))
    assert list(row) == KEYS
    # <Path> \n 1 : " It" " is" " " 4 2 .\n </Path> \n has 12 pieces, the other path 13.
    assert row["id"] == "7"
    assert row["well_formed"] is True
    assert (row["blocks"], row["paths"], row["depth"], row["issues"]) == (1, 2, 1, [])
    assert row["tokens"] - row["critical_path_tokens"] == 12
    assert row["parallelism"] == pytest.approx(
        row["tokens"] / row["critical_path_tokens"], abs=1e-4
    )
    assert row["net_parallelism"] < row["parallelism"]


def test_a_bad_line_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    lines = [
        json.dumps({"id": "first", "output": BLOCK}),
        "{not json",
        "[1, 2]",
        "",
        json.dumps({"id": "none", "answer": "x"}),
        json.dumps({"id": "number", "output": 3}),
        json.dumps({"id": "last", "output": "plain"}),
    ]
    file.write_bytes("\n".join(lines).encode() + b'\n{"output": "\xff"}\n')
    result = inspect(file, "--json")
    assert result.exit_code == 1
    assert [row["id"] for row in rows(result)] == ["first", "last"]
    reported = result.stderr.splitlines()
    assert [line.split(":")[2] for line in reported] == ["2", "3", "5", "6", "8"]
    assert all(line.startswith(f"error: {file}:") for line in reported)
    assert "'answer'" in reported[2]
    assert "'output' or 'completion'" in reported[2] and "--text" in reported[2]
    assert inspect(file).exit_code == 1


def test_the_field_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(json.dumps({"output": "no block", "mine": BLOCK}))
    assert rows(inspect(file, "--json", "--field", "mine"))[0]["blocks"] == 1
    assert rows(inspect(file, "--json"))[0]["blocks"] == 0
    missing = inspect(file, "--json", "--field", "other")
    assert missing.exit_code == 2
    assert "no field 'other' (it has 'output', 'mine')" in missing.stderr
    assert "holds no row that can be used" in missing.stderr


def test_plain_text_and_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    file.write_text(BLOCK)
    assert rows(inspect(file, "--json"))[0]["blocks"] == 1
    assert rows(inspect("-", "--json", stdin=BLOCK))[0]["blocks"] == 1
    assert rows(inspect("-", "--json", stdin=json.dumps({"text": BLOCK})))[0]["blocks"] == 1
    shown = inspect("-", stdin=BLOCK).stdout
    assert "path 1: Add. 12" in shown
    assert "path 2: Subtract. 13" in shown


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no row"),
        ("\n\n", "holds no row"),
        ("PAR1", "not JSON"),
    ],
)
def test_a_file_without_traces_is_an_error(content: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "none.jsonl"
    file.write_text(content)
    result = inspect(file, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr
    text = inspect("-", "--json", stdin=content)
    assert (text.exit_code, text.stdout) == (2, "")


def test_what_fails_a_build_can_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(json.dumps({"output": BLOCK.replace("</Path>", "")}))
    assert inspect(file).exit_code == 0
    assert inspect(file, "--fail-on", "malformed").exit_code == 1
    file.write_text(file.read_text() + "\n{")
    assert inspect(file).exit_code == 1
    assert inspect(file, "--fail-on", "nothing").exit_code == 0


def test_a_completion_of_messages_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    said = [{"role": "assistant", "content": BLOCK}]
    file.write_text(json.dumps({"prompt": "x", "completion": said}))
    assert rows(inspect(file, "--json"))[0]["blocks"] == 1
    assert rows(inspect(file, "--json", "--text", "completion"))[0]["blocks"] == 1


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    result = inspect(tmp_path / "absent.jsonl")
    assert result.exit_code == 2
    assert "absent.jsonl" in result.stderr
    file = tmp_path / "one.txt"
    file.write_text(BLOCK)
    result = inspect(file, "--tokenizer", tmp_path)
    assert result.exit_code == 2
    assert f"no tokenizer.json in {tmp_path}" in result.stderr
    save(byte_level(tags=()), tmp_path)
    result = inspect(file, "--tokenizer", tmp_path)
    assert result.exit_code == 2
    assert "lacks <Think>" in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "\ud800 half a pair",
        "<Path>",
        "<Parallel>\n<Goal>\n<Outline>\n</Outline>\n<Outline>\n</Outline>\n</Goal>\n<Path>\n" * 500,
        "[bold]markup[/] [/nonsense]",
        "\x00\u2028\r\n<Think>\r\nx\r\n</Think>\r\n",
    ],
)
def test_odd_texts_are_shown(text: str, tmp_path: Path, tokenizer_folder: Path) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text(json.dumps({"id": text[:20], "output": text}))
    for options in ([], ["--json"], ["--json", "--tokenizer", tokenizer_folder]):
        result = inspect(file, *options)
        assert result.exit_code == 0, result.output
        assert result.stdout


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text((json.dumps({"output": BLOCK}) + "\n") * 2000)
    command = f'"{sys.executable}" -m sglang_multiverse.cli inspect --json "{file}" | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["blocks"] == 1
    assert done.stderr == ""


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from sglang_multiverse.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'sglang', 'transformers', 'tokenizers', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "inspect" in done.stdout
