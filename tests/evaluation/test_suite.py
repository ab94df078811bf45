"""Suites and questions: what is read, and how bad ones are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sglang_multiverse.evaluation import questions
from sglang_multiverse.evaluation.suite import SuiteError, load
from sglang_multiverse.evaluation.tasks import TASKS, seed_of

GOOD = """
name: both
servers:
  mv: {base_url: "http://h:1", flags: [--tp, 8]}
  ar: {base_url: "http://h:2", plugin: false}
sampling: {temperature: 0.6, top_p: 0.95}
epochs: 4
max_tokens: 100
seed: 7
arms:
  - {task: tiny, modes: [parallel, sequential], budgets: [null, 64]}
  - {task: math500, server: ar, modes: [off], data: rows.jsonl, epochs: 1, limit: 5}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return path


def test_arms_are_modes_times_budgets(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    suite = load(write(tmp_path, GOOD))
    common = {"task": "tiny", "epochs": 4, "max_tokens": 100, "seed": 7}
    assert suite.of_server("mv") == [
        {**common, "mode": "parallel"},
        {**common, "mode": "parallel", "budget": 64},
        {**common, "mode": "sequential"},
        {**common, "mode": "sequential", "budget": 64},
    ]
    (arm,) = suite.of_server("ar")
    assert arm["mode"] == "off", "YAML's off is a mode, not false"
    assert arm["data"] == str(tmp_path / "rows.jsonl"), "beside the suite"
    assert (arm["epochs"], arm["limit"]) == (1, 5)
    assert suite.servers["mv"].flags == ("--tp", "8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("task: tiny", "task: tinny", "arms.0.task: .*no task 'tinny'; there are aime24"),
        ("modes: [parallel", "modes: [paralel", "arms.0.modes.0: .*'parallel'"),
        ("epochs: 4", "epochs: none", "epochs: .*integer"),
        ("seed: 7", "sede: 7", "sede: Extra inputs"),
        ("temperature: 0.6", "temperature: -1", "sampling.temperature"),
        ("server: ar", "server: xx", "arms.1.server: no server 'xx'; there are mv, ar"),
        ('{base_url: "http://h:2", plugin: false}', "{plugin: false}", "servers.ar: give base_url"),
        ('base_url: "http://h:1", flags: [--tp, 8]', "serve: m, flags: [--port=8]", "--port is"),
        ("modes: [off], ", "budgets: [64], ", "arms.1.budgets: .*without the plugin"),
        ("arms:", "arms: []\nx:", "arms"),
        ("name: both", "name: [", "suite.yaml"),
        ("name: both", "name: " + "[" * 10_000, "suite.yaml"),
        ("name: both", "name: 2026-13-01", "suite.yaml"),
        ("seed: 7", "seed: " + "7" * 5000, "suite.yaml"),
        ("name: both", "name: ../both", "name: .*no slash"),
        ("name: both", 'name: "\\ud800"', "name: .*a folder"),
        ("  ar:", "  '..':", r"servers\.\.\..*a folder"),
        ("http://h:1", "localhost:1", "servers.mv.base_url: .*'localhost:1' is no address"),
        ("http://h:1", "http://h:one", "servers.mv.base_url: .*is no address"),
        ("http://h:1", "http://h:1/a b", "servers.mv.base_url: .*is no address"),
        ("temperature: 0.6", "temperature: .inf", "sampling.temperature: .*finite"),
        ("budgets: [null, 64]", "budgets: [-64]", r"arms\.0\.budgets\.0.*: .*greater than 0"),
        ("budgets: [null, 64]", "budgets: []", r"arms\.0\.budgets: .*at least 1"),
        ("modes: [off]", "modes: []", r"arms\.1\.modes: .*at least 1"),
        ("budgets: [null, 64]", "budgets: [9, 9]", "arms: mv is asked the same twice .*budget 9"),
        (GOOD, "- 1", "no mapping"),
    ],
)
def test_a_bad_suite_is_refused_by_field(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(SuiteError, match=said) as error:
        load(write(tmp_path, GOOD.replace(old, new, 1)))
    assert "\n" not in str(error.value)


def test_arms_that_a_limit_makes_alike(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "  - {task: tiny, budgets: [64], limit: 9}\n")
    assert len(load(path).of_server("mv")) == 5
    with pytest.raises(SuiteError, match=r"asked the same twice .*limit 3"):
        load(path, limit=3)


def test_addresses(tmp_path: Path) -> None:
    for url in ("https://a-b.example/v1", "http://[::1]:30000", "HTTP://localhost:1/x/v1/"):
        assert load(write(tmp_path, GOOD.replace("http://h:1", url))).servers["mv"].base_url == url


def test_a_missing_suite(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


def test_seeds_are_of_question_and_epoch_not_of_the_mode() -> None:
    seeds = {seed_of(0, question, epoch) for question in "abc" for epoch in (1, 2)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(0, "a", 1) != seed_of(1, "a", 1)


def test_questions_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"id": 3, "problem": "1+1?", "answer": 2}\n\n', encoding="utf-8")
    found = questions.from_rows(str(path), "Box it.")
    (one,) = found.asked
    assert (one.id, one.text, one.reference) == ("3", "1+1? Box it.", "2")
    path.write_text(path.read_text(encoding="utf-8-sig").replace("1+1", "1 + 1"))
    assert questions.from_rows(str(path), "Box it.").sha256 != found.sha256


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"problem": "x"}', "row 1 lacks an answer: its columns are problem"),
        ('{"answer": "x"}', "row 1 lacks a question"),
        ("{", r"rows\.jsonl:1: not JSON"),
        ("3", r"rows\.jsonl:1: expected a JSON object"),
        ('{"problem": "x", "answer": "\xe9"}', r"rows\.jsonl:1: not UTF-8"),
        ('{"problem": ' + "[" * 100_000, r"rows\.jsonl:1: not JSON"),
        ("", "holds no question"),
        ('{"id": 1, "problem": "x", "answer": 1}\n' * 2, "1 ids stand twice, such as 1"),
    ],
)
def test_bad_questions_say_where(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(questions.QuestionsError, match=said):
        questions.from_rows(str(path))


def test_half_a_surrogate_pair_in_a_question_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "\\ud800", "problem": "\\ud83d?", "answer": "\\udfff"}')
    found = questions.from_rows(str(path))
    (one,) = found.asked
    assert (one.id, one.text, one.reference) == ("\ufffd", "\ufffd?", "\ufffd")
    assert len(found.sha256) == 64


@pytest.mark.parametrize("change", [{"instruction_id_list": 1}, {"kwargs": [1]}, {"prompt": 1}])
def test_bad_instructions_say_where(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "x", "instruction_id_list": [], "kwargs": []}
    path.write_text(json.dumps(row | change))
    with pytest.raises(questions.QuestionsError, match="row 1 is none of google/IFEval"):
        questions.ifeval(str(path))


def test_a_path_that_is_none_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for name in ("nowhere.jsonl", "./a/b", "/a/b", "~nobody-of-this-name/x", "word"):
        with pytest.raises(questions.QuestionsError, match="no such file"):
            questions.from_rows(name)


COLUMNS = [
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
]


def gpqa_like(path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(4):
            writer.writerow([f"Invented {number}?", f"right {number}", "no\nnot this", "nor", "x"])
    return path


def test_another_file_than_the_published_one_is_refused(tmp_path: Path) -> None:
    path = gpqa_like(tmp_path / "gpqa_diamond.csv")
    with pytest.raises(questions.QuestionsError, match=r"sha256 is .*not 41d1213cd7a4"):
        questions.gpqa(str(path))
    with pytest.raises(questions.QuestionsError, match="no such file"):
        questions.gpqa(str(tmp_path / "none.csv"))
    with pytest.raises(questions.QuestionsError, match="needs data"):
        TASKS["gpqa_diamond"]()
    with pytest.raises(questions.QuestionsError, match="own needs data"):
        TASKS["own"]()


def test_choices_are_shuffled_the_same_each_time(tmp_path: Path) -> None:
    path = gpqa_like(tmp_path / "gpqa_diamond.csv")
    found = questions.gpqa(str(path), "Choose.", checked=False)
    assert found.private
    assert found == questions.gpqa(str(path), "Choose.", checked=False)
    for number, one in enumerate(found.asked):
        assert f"({one.reference}) right {number}" in one.text
        assert one.text.endswith("Choose.")
        assert one.comparison == "choice"


def test_instructions_are_checked_after_the_thought(tmp_path: Path) -> None:
    pytest.importorskip("if_verifiable", reason="needs if-verifiable")
    from sglang_multiverse.evaluation.instructions import followed

    path = tmp_path / "ifeval.jsonl"
    row = {
        "key": 7,
        "prompt": "Say yes without a comma.",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{}, {"keywords": ["yes"], "relation": None}],
    }
    path.write_text(json.dumps(row))
    (one,) = questions.ifeval(str(path)).asked
    assert (one.id, one.extra["kwargs"]) == ("7", [{}, {"keywords": ["yes"]}])
    assert followed("<Think>well, no</Think>\n\nyes", one.extra) == [True, True]
    assert followed("<Think>yes</Think>\n\nwell, no", one.extra) == [False, False]
