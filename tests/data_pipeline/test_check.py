"""``multiverse curate check`` on corpora of every shape, and on what is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from sglang_multiverse.cli import curate_check
from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.tiny import MODEL_DIR
from tests.conftest import Rows
from tests.data_pipeline.mutations import synthetic

TEXT = synthetic(0)
SOURCE = flatten_text(TEXT)

app = typer.Typer()
app.command()(curate_check.command)


def check(*args: str | Path, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], input=stdin)


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def write(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_one_object_a_text(tmp_path: Path) -> None:
    broken = TEXT.replace("</Goal>", "", 1)
    file = write(tmp_path / "a.jsonl", {"id": "good", "text": TEXT}, {"output": broken})
    result = check(file, "--json")
    good, bad = rows(result)
    assert result.exit_code == 0
    assert good == {"id": "good", "accepted": True, "codes": [], "gates": {}, "findings": []}
    assert bad["id"] == "2" and not bad["accepted"] and bad["codes"] == ["unclosed-goal"]
    assert bad["gates"] == {"unclosed-goal": "grammar"}
    (finding,) = bad["findings"]
    start, end = finding["span"]
    assert broken[start:end].startswith("<Goal>") and finding["gate"] == "grammar"


def test_the_published_columns_are_known(tmp_path: Path) -> None:
    row = {
        "question": "What is it?",
        "solution": "Words. " * 60,
        "deepseek_thinking_trajectory": SOURCE,
        "deepseek_thinking_trajectory_parallel": TEXT,
        "uuid": 17,
    }
    cut = TEXT.rindex("For the check at mark 9")
    lost = TEXT[:cut] + TEXT[TEXT.index("So the final answer is", cut) :]
    file = write(
        tmp_path / "corpus.jsonl",
        row,
        row | {"deepseek_thinking_trajectory_parallel": lost},
        row | {"solution": "\\boxed{1}"},
    )
    one, two, three = rows(check(file, "--json"))
    assert one["id"] == "17" and one["accepted"]
    assert "lost-content" in two["codes"] and not two["accepted"]
    assert three["codes"] == ["answer-changed"]


def test_an_export_is_held_to_what_its_run_held_it_to(tmp_path: Path) -> None:
    """The whole trace, not the thought alone, and the attempt, which may be wrong, or nothing."""
    end = "\n</Think>\n\n"
    thought = re.sub(r"So the final answer is [^\n]*", "So that is it.", TEXT.partition(end)[0])
    whole = f"{thought}{end}Answer: 4"
    exported = {
        "solution": "7",
        "deepseek_attempt": None,
        "deepseek_thinking_trajectory_parallel": f"{thought}{end}".strip(),
        "text": whole,
        "text_sequential": flatten_text(whole),
        "run": "abc",
    }
    file = write(tmp_path / "out.jsonl", exported, exported | {"deepseek_attempt": "4"})
    assert [one["codes"] for one in rows(check(file, "--json"))] == [[], []]
    named = rows(check(file, "--json", "--answer", "solution"))
    assert [one["codes"] for one in named] == [["answer-changed"]] * 2


def test_fields_can_be_named(tmp_path: Path) -> None:
    item = {"trace": TEXT, "chain": "Something else entirely.", "gold": "1"}
    file = write(tmp_path / "a.jsonl", item)
    args = (file, "--json", "--text", "trace", "--source", "chain", "--answer", "gold")
    assert set(rows(check(*args))[0]["codes"]) >= {"content-distance", "answer-changed"}
    (missing,) = rows(check(file, "--json", "--text", "trace", "--source", "nowhere"))
    assert missing["codes"] == ["bad-line"] and "--source" in missing["error"]


def test_options_are_the_gates(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"text": TEXT})
    assert rows(check(file, "--json", "--max-depth", "1"))[0]["codes"] == ["too-deep"]
    assert rows(check(file, "--json", "--max-branches", "2"))[0]["codes"] == ["too-wide"]
    assert rows(check(file, "--json", "--benefit", "0"))[0]["codes"] == ["costly-block"]
    by_model = check(file, "--json", "--benefit", "0", "--tokenizer", MODEL_DIR)
    assert rows(by_model)[0]["codes"] == ["costly-block"]
    flat = write(tmp_path / "b.jsonl", {"text": SOURCE})
    assert rows(check(flat, "--json"))[0]["codes"] == ["no-block"]
    assert rows(check(flat, "--json", "--model-output"))[0]["accepted"]


def test_strict_coverage_sees_one_sentence(tmp_path: Path) -> None:
    changed = TEXT.replace("For the check at mark 3", "For a check at mark 3")
    item = {"deepseek_thinking_trajectory": SOURCE, "text": changed}
    file = write(tmp_path / "a.jsonl", item)
    assert rows(check(file, "--json"))[0]["accepted"]
    assert rows(check(file, "--json", "--strict-coverage"))[0]["codes"] == ["changed-sentence"]


BAD: list[tuple[bytes, str]] = [
    (b"{not json", "not JSON"),
    (b"[1, 2]", "got list"),
    (b'{"chain": "x"}', "--text"),
    (b'{"text": 7}', "holds int"),
    (b'{"text": "\xff"}', "not UTF-8"),
    (b"[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_line_is_named_and_loses_nothing_else(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    good = json.dumps({"text": TEXT}).encode()
    file = tmp_path / "a.jsonl"
    file.write_bytes(good + b"\n\n" + line + b"\n" + good)
    result = check(file, "--json")
    assert result.exit_code == 0
    first, bad, last = rows(result)
    assert first["accepted"] and last["accepted"]
    assert bad["codes"] == ["bad-line"] and not bad["accepted"] and bad["id"] == "line 3"
    assert f"{file}:3: " in result.stderr and reason in result.stderr
    assert "1 unreadable" in check(file).stdout


def test_an_empty_text_is_told_as_such(tmp_path: Path) -> None:
    (good, bad) = rows(check(write(tmp_path / "a.jsonl", {"text": TEXT}, {"text": " "}), "--json"))
    assert good["accepted"] and bad["codes"] == ["bad-line"] and "text is empty" in bad["error"]


def test_the_same_fault_of_many_rows_is_told_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *[{"x": 1}] * 500, {"y": 1}, {"output": TEXT})
    result = check(file)
    first, second, rest = result.stderr.splitlines()
    assert "a.jsonl:1: no field" in first and "--text" in first and "a.jsonl:501" in second
    assert "499 more, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …: no field" in rest
    assert "502 texts: 1 accepted, 0 rejected, 501 unreadable" in result.stdout


@pytest.mark.parametrize("name", ["a[/]", "[bold]x", "[/red]\\"])
def test_an_id_is_no_markup(tmp_path: Path, name: str) -> None:
    result = check(write(tmp_path / "a.jsonl", {"id": name, "text": "x"}))
    assert result.exit_code == 0 and name in result.stdout


def test_of_messages_the_assistant_is_checked(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": TEXT}]
    file = write(tmp_path / "a.jsonl", {"messages": chat})
    assert rows(check(file, "--json", "--text", "messages"))[0]["accepted"]


def test_texts_without_a_block_can_be_allowed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"text": SOURCE}, {"text": TEXT})
    assert [one["accepted"] for one in rows(check(file, "--json"))] == [False, True]
    assert all(one["accepted"] for one in rows(check(file, "--json", "--allow-no-block")))
    deep = check(file, "--json", "--allow-no-block", "--max-depth", "1")
    assert rows(deep)[1]["codes"] == ["too-deep"], "everything else is held to"


def test_an_answer_that_was_not_compared_is_a_note(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"text": TEXT, "answer": "Long talk. " * 40})
    (row,) = rows(check(file, "--json", "--fail-on", "rejected"))
    assert row["accepted"] and row["codes"] == ["answer-unchecked"]
    assert "answer-unchecked" in check(file).stdout


def test_a_file_that_cannot_be_read_is_exit_code_2(tmp_path: Path) -> None:
    assert check(tmp_path / "nowhere.jsonl").exit_code == 2
    fake = tmp_path / "a.parquet"
    fake.write_bytes(b"no parquet at all")
    result = check(fake)
    assert result.exit_code == 2 and "error:" in result.stderr
    assert check(write(tmp_path / "a.jsonl", {"text": TEXT}), "--benefit", "0", "--tokenizer",
                 tmp_path).exit_code == 2  # fmt: skip


def test_an_empty_file_holds_no_line(tmp_path: Path) -> None:
    result = check(write(tmp_path / "a.jsonl"))
    assert result.exit_code == 2 and "holds no row" in result.stderr


def test_parquet_is_read(tmp_path: Path) -> None:
    from datasets import Dataset

    file = tmp_path / "corpus.parquet"
    Dataset.from_list(
        [{"id": "a", "output": TEXT}, {"id": "b", "output": TEXT.split("</Think>")[0]}]
    ).to_parquet(str(file))
    found = rows(check(file, "--json"))
    assert [(row["id"], row["codes"]) for row in found] == [("a", []), ("b", ["unclosed-think"])]


def test_standard_input_and_the_table(traces: Callable[[str], Rows]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in traces("wellformed"))
    result = check("-", stdin=lines)
    assert result.exit_code == 0
    assert "87 texts: 54 accepted, 33 rejected, 0 unreadable" in result.stdout
    assert "transitional-opening" in result.stdout and "independence" in result.stdout
    result = check("-", "--model-output", stdin=lines)
    assert "87 texts: 87 accepted" in result.stdout


@pytest.mark.parametrize(
    ("fail_on", "codes"),
    [("nothing", [0, 0, 0, 2]), ("unreadable", [0, 0, 1, 2]), ("rejected", [0, 1, 1, 2])],
)
def test_it_can_gate_a_build(fail_on: str, codes: list[int], tmp_path: Path) -> None:
    good, rejected = {"text": TEXT}, {"text": TEXT.replace("</Goal>", "", 1)}
    files = [[good], [good, rejected], [good, {"nothing": 1}], [{"nothing": 1}]]
    for number, (lines, code) in enumerate(zip(files, codes, strict=True)):
        file = write(tmp_path / f"{number}.jsonl", *lines)
        assert check(file, "--fail-on", fail_on).exit_code == code


@pytest.mark.parametrize(("share", "code"), [("0.2", 1), ("0.25", 0), ("1", 0)])
def test_a_build_may_put_up_with_a_share(share: str, code: int, tmp_path: Path) -> None:
    rejected = {"text": TEXT.replace("</Goal>", "", 1)}
    file = write(tmp_path / "a.jsonl", *[{"text": TEXT}] * 3, rejected)
    assert check(file, "--fail-on", "rejected", "--max-share", share).exit_code == code


def test_what_cannot_be_read_as_text_at_all_is_an_error(tmp_path: Path) -> None:
    result = check(write(tmp_path / "a.jsonl", {"nothing": 1}))
    assert result.exit_code == 2
    assert "holds no row that can be used" in result.stderr


def test_real_traces_pass_against_their_own_flattened_text(traces: Rows, tmp_path: Path) -> None:
    """But for one whose flattened answer is another, and one path of a single formula."""
    rows_of = [
        {"id": row["id"], "text": row["output"], "flat": flatten_text(row["output"])}
        for row in traces("wellformed")
        if "<Parallel>" in row["output"]
    ]
    file = write(tmp_path / "own.jsonl", *rows_of)
    found = rows(check(file, "--json", "--model-output", "--source", "flat"))
    passed = sum(one["accepted"] for one in found)
    print(f"\n{passed} of {len(found)} pass; {[o['codes'] for o in found if not o['accepted']]}")
    assert passed >= 0.95 * len(found)


def test_paths_are_held_against_their_own_sentences(tmp_path: Path) -> None:
    start, end = TEXT.index("<Path>"), TEXT.index("</Path>")
    path = TEXT[start:end]
    wrong = re.sub(r"= (\d+)", lambda found: f"= {int(found[1]) + 1}", path, count=1)
    shorter = re.sub(r"\n[^\n]+\n", "\n", path, count=1)
    assert path != wrong != shorter != path
    for changed, codes in ((wrong, {"new-number"}), (shorter, {"lost-statement"}), (path, set())):
        text = TEXT[:start] + changed + TEXT[end:]
        file = write(tmp_path / "a.jsonl", {"text": text, "chain": SOURCE})
        (row,) = rows(check(file, "--json", "--source", "chain"))
        faithful = {code for code, gate in row["gates"].items() if gate == "faithful"}
        assert codes <= faithful
        assert bool(codes) == bool(faithful)
