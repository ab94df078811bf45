"""Sources and configurations: what is read, what is left out and why, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sglang_multiverse.data_pipeline import config as configs
from sglang_multiverse.data_pipeline.config import Columns, ConfigError, Source
from sglang_multiverse.data_pipeline.estimate import estimate
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import item_id
from sglang_multiverse.data_pipeline.source.ingest import IngestError, ingest, ngrams
from sglang_multiverse.data_pipeline.teacher.budget import Prices


def row(question: str = "What is 1 + 1?", **changes: Any) -> dict[str, Any]:
    return {
        "question": question,
        "deepseek_thinking_trajectory": "It is 2.",
        "deepseek_attempt": "2",
        "solution": "2",
        "deepseek_grade": "Yes",
        **changes,
    }


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in rows) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_rows_become_records(file: Path) -> None:
    (record,) = ingest(Source(files=[lines(file, [row(extra=3)])])).records
    assert record.id == item_id("What is 1 + 1?", "It is 2.")
    assert (record.source, record.attempt, record.answer) == ("It is 2.", "2", "2")
    assert record.columns["extra"] == 3


def test_a_question_may_have_several_chains(file: Path) -> None:
    chains = ["It is 2.", "Count: one, two.", "It  is 2. "]
    found = ingest(
        Source(files=[lines(file, [row(deepseek_thinking_trajectory=one) for one in chains])])
    )
    assert [record.source for record in found.records] == chains[:2]
    assert len({record.id for record in found.records}) == 2
    assert [one.code for one in found.skipped] == ["duplicate"]


def test_a_column_that_is_named_must_be_there(file: Path) -> None:
    source = Source(files=[lines(file, [row()])], columns=Columns(answer="soluton"))
    with pytest.raises(IngestError, match="soluton"):
        ingest(source)


def test_parquet_and_json_are_read_too(tmp_path: Path, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row("A?"), row("B?")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    lines(file, rows)
    found = [
        [record.question for record in ingest(Source(files=[tmp_path / name])).records]
        for name in ("rows.parquet", "rows.json", "rows.jsonl")
    ]
    assert found == [["A?", "B?"]] * 3


def test_every_row_that_is_left_out_has_a_reason(file: Path) -> None:
    rows = [
        row(),
        row("What  is 1 + 1? "),
        row("", deepseek_grade="Yes"),
        row("C?", deepseek_thinking_trajectory=None),
        row("D?", deepseek_attempt=None, solution=None),
        row("E?", deepseek_grade="No"),
        ["no", "object"],
        row("F?"),
    ]
    source = Source(files=[lines(file, rows)], require={"deepseek_grade": "Yes"})
    found = ingest(source)
    assert [record.question for record in found.records] == ["What is 1 + 1?", "F?"]
    assert [(one.row, one.code) for one in found.skipped] == [
        (2, "duplicate"),
        (3, "no-question"),
        (4, "no-chain"),
        (5, "no-answer"),
        (6, "filtered"),
        (7, "unreadable"),
    ]


def test_a_line_that_is_none_is_left_out_and_the_rest_is_read(file: Path, tmp_path: Path) -> None:
    whole = lines(file, [row("A?"), row("B?")]).read_text()
    file.write_text(whole.replace("\n", '\n{"question": "cut\n', 1))
    found = ingest(Source(files=[file]))
    assert [record.question for record in found.records] == ["A?", "B?"]
    (bad,) = found.skipped
    assert (bad.row, bad.code) == (2, "unreadable") and "jsonl:2: not JSON" in bad.message
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert list(ingest(Source(files=[packed])).records) == list(found.records)
    with pytest.raises(IngestError, match=r"a test set must be whole: .*:2: not JSON"):
        ingest(Source(files=[file], decontaminate=[file]))


THOUGHT = "Okay, <b>so</b>.\nIt is 2."


@pytest.mark.parametrize(
    ("chain", "attempt", "wanted"),
    [
        (f"<think>\n{THOUGHT}\n</think>", "2", "2"),
        (f"<think>\n{THOUGHT}\n</think>\n\nTwo.", None, "Two."),
        (f"<think>\n{THOUGHT}\n</think>\n\nTwo.", "2", "2"),
        (f"{THOUGHT}\n</think>\n\nTwo.", None, "Two."),
        (f"{THOUGHT}</think>\nTwo.", " ", "Two."),
        (f"<THINK>{THOUGHT}</THINK>Two.", None, "Two."),
        (f"<Think>\n{THOUGHT}\n", "2", "2"),
        (f"\n<think>{THOUGHT}</think>", f"<think>{THOUGHT}</think>Two.", "Two."),
        (THOUGHT, f"<think>\n{THOUGHT}\n</think>\n\nTwo.", "Two."),
    ],
)
def test_a_thought_comes_without_its_tags(
    file: Path, chain: str, attempt: str | None, wanted: str
) -> None:
    rows = [row(deepseek_thinking_trajectory=chain, deepseek_attempt=attempt)]
    found = ingest(Source(files=[lines(file, rows)]))
    (record,) = found.records
    assert (record.source, record.attempt) == (THOUGHT, wanted)
    assert record.id == item_id(record.question, THOUGHT)
    assert record.columns["deepseek_thinking_trajectory"] == THOUGHT, "what is exported"
    assert found.untagged == (chain != THOUGHT)


@pytest.mark.parametrize(
    ("chain", "code"),
    [
        (f"Here:\n<think>\n{THOUGHT}\n</think>\nTwo.", "think-tag"),
        (f"<think>\n{THOUGHT}\n<think>\nMore.\n</think>", "think-tag"),
        (f"<think>{THOUGHT}</think>\nTwo?\n<Think>\nMore.\n</Think>\nTwo.", "think-tag"),
        ("<think>\n\n</think>\n\nTwo.", "no-chain"),
    ],
)
def test_tags_that_are_not_around_the_thought_leave_the_row_out(
    file: Path, chain: str, code: str
) -> None:
    rows = [row(), row("B?", deepseek_thinking_trajectory=chain, deepseek_attempt=None)]
    found = ingest(Source(files=[lines(file, rows)]))
    assert [(one.row, one.code) for one in found.skipped] == [(2, code)]


def test_words_about_a_tag_stay(file: Path) -> None:
    chain = "The prompt ends in <think> here, and </think> is what it waits for."
    found = ingest(Source(files=[lines(file, [row(deepseek_thinking_trajectory=chain)])]))
    assert found.records[0].source == chain
    assert found.untagged == 0


def test_test_questions_are_kept_out(file: Path, tmp_path: Path) -> None:
    tests = lines(
        tmp_path / "tests.jsonl", [{"problem": "Find the least odd prime number, please"}]
    )
    rows = [row("So: find the LEAST odd prime number!"), row("Find the most even prime")]
    source = Source(files=[lines(file, rows)], decontaminate=[tests], ngram=5)
    found = ingest(source)
    assert [one.code for one in found.skipped] == ["contaminated"]
    assert len(found.records) == 1
    assert ngrams("a b c", 2) == {("a", "b"), ("b", "c")}
    assert ngrams("a b", 5) == {("a", "b")}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"question": 5}, r"tests\.jsonl:2: column 'question' holds int"),
        ({"question": None}, r"tests\.jsonl:2: no question"),
        ({"text": "x"}, r"tests\.jsonl:2: no question of a test set in 'question' or 'problem'"),
    ],
)
def test_a_test_set_that_is_not_whole_is_named(
    line: Any, why: str, file: Path, tmp_path: Path
) -> None:
    tests = lines(tmp_path / "tests.jsonl", [{"question": None, "problem": "Which?"}, line])
    with pytest.raises(IngestError, match=why):
        ingest(Source(files=[lines(file, [row()])], decontaminate=[tests]))


def test_messages_are_no_column_of_text(file: Path) -> None:
    chat = [{"role": "user", "content": "A?"}]
    with pytest.raises(IngestError, match="holds messages; write what they say to columns"):
        ingest(Source(files=[lines(file, [row(question=chat)])]))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"a": 1}\n' * 999))
    packed[10] = 0xFF  # where the header ends: no kind of block that there is
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    with pytest.raises(IngestError, match=r"a\.jsonl\.gz: .*damaged"):
        ingest(Source(files=[tmp_path / "a.jsonl.gz"]))


def test_columns_can_bear_other_names(file: Path) -> None:
    lines(file, [{"q": "A?", "thought": "Well.", "gold": 7}])
    columns = {"question": "q", "chain": "thought", "attempt": None, "answer": "gold"}
    source = Source.model_validate({"files": [file], "columns": columns})
    (record,) = ingest(source).records
    assert (record.question, record.source, record.answer) == ("A?", "Well.", "7")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "A?"\n', r"rows\.jsonl:1: not JSON"),
        ("", "it is empty"),
        ('{"x": 1}\n', "row 1: column 'question' is missing"),
    ],
)
def test_what_cannot_be_read_is_named(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(IngestError, match=message):
        ingest(Source(files=[file]))


def test_of_a_file_of_another_kind_it_is_said_what_is_read(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("question,solution\n1,2\n")
    with pytest.raises(
        IngestError, match=r"rows\.csv:1: not JSON.*JSON lines \(\.jsonl\).*parquet"
    ):
        ingest(Source(files=[table]))


def test_half_characters_are_replaced(file: Path) -> None:
    half = row("What \ud83d?", deepseek_attempt="A \ud83d", solution="\udc00")
    half["deepseek_thinking_trajectory"] = "Well \ud83d, \ud83d\ude00."
    (record,) = ingest(Source(files=[lines(file, [half])])).records
    found = (record.question, record.source, record.attempt, record.answer)
    assert found == ("What \ufffd?", "Well \ufffd, \U0001f600.", "A \ufffd", "\ufffd")


def test_a_file_that_is_missing_is_named(file: Path) -> None:
    with pytest.raises(IngestError, match="No such file"):
        ingest(Source(files=[file]))


def test_a_limit_takes_the_first_usable_rows_of_the_same_run(file: Path) -> None:
    lines(file, [row("A?"), row("A?"), row("B?"), row("C?")])
    few, all_of_it = ingest(Source(files=[file], limit=2)), ingest(Source(files=[file]))
    assert [record.question for record in few.records] == ["A?", "B?"]
    assert few.identity == all_of_it.identity
    lines(file, [row("A?")])
    assert ingest(Source(files=[file])).identity != all_of_it.identity


def load(tmp_path: Path, text: str, **overrides: Any) -> configs.Config:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return configs.load(str(path), overrides)


GOOD = """
source: {files: [x.jsonl]}
endpoint: {base_url: http://localhost/v1, model: m}
"""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("gates: {max_dept: 2}", "unknown max_dept; there are"),
        ("budget: {cost: 5}", "without `prices`"),
        ("attempts: 0", "attempts: .*greater than or equal to 1"),
        ("colour: blue", "colour: unknown; there are attempts, batch, benefit, "),
        ("sampling: {temprature: 1}", r"sampling\.temprature: unknown; there are extra, max_tok"),
        ("batch: {itmes: 1}", r"batch\.itmes: unknown; there are items, megabytes"),
        ("card: {name: 2026-02-30}", r"c\.yaml: line 4, column 14: .*day is out of range"),
        (f"attempts: {'9' * 5000}", "line 4, column 11: .*4300 digits"),
        ("card: {name: \x01}", r"c\.yaml: character \d+: special characters are not allowed"),
        ("card: " + "[" * 5000, "nested too deep"),
        ("attempts: 1\nattempts: 2", "line 5, column 1: 'attempts' is there a second time"),
        ("card: {name: a, name: b}", "line 4, column 17: 'name' is there a second time"),
        ("prices: {input: 1, currency: '[/x]'}", r"prices\.currency: it is no currency"),
        ("prices: {input: 1, currency: ''}", r"prices\.currency: it is no currency"),
        ("prompts: /nowhere", "no folder of prompts"),
        ("tokenizer: /nowhere", "no tokenizer.json"),
        ("{", "while parsing"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, GOOD + more).recipe()


def test_a_hub_dataset_needs_its_commit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the commit it is read at"):
        configs.load("s1k")
    loaded = configs.load("s1k", {"source.revision": "abc"})
    assert loaded.source.revision == "abc"
    loaded.recipe()
    with pytest.raises(ConfigError, match="either `dataset` or `files`"):
        load(tmp_path, GOOD.replace("files: [x.jsonl]", "split: train"))


def test_a_key_that_is_not_set_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    loaded = load(tmp_path, GOOD, **{"endpoint.api_key_env": "NO_SUCH_KEY"})
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        loaded.endpoint.build()
    monkeypatch.setenv("NO_SUCH_KEY", "sk-1")
    assert loaded.endpoint.build().api_key == "sk-1"
    assert "sk-1" not in repr(loaded.endpoint.build())
    assert "sk-1" not in json.dumps(loaded.about())


@pytest.mark.parametrize(
    "address",
    ["user:pw-SECRET@host/v1", "pw-SECRET@host/v1", "host/v1?key=pw-SECRET", "h/v1#SECRET"],
)
def test_an_address_with_a_key_in_it_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"endpoint\.base_url: .*api_key_env") as error:
        load(tmp_path, GOOD, **{"endpoint.base_url": f"http://{address}"})
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://api.example.com:8443/v1beta/openai/", "api.example.com"),
        ("http://8.8.8.8/v1", "8.8.8.8"),
        ("http://localhost:30000/v1", None),
        ("http://gpu7:30000/v1", None),
        ("http://teacher.lan/v1", None),
        ("http://10.0.0.3:8000/v1", None),
        ("http://[fd00::1]:8000/v1", None),
    ],
)
def test_of_the_endpoint_no_more_than_a_public_host_is_told(
    tmp_path: Path, address: str, told: str | None
) -> None:
    about = load(tmp_path, GOOD, **{"endpoint.base_url": address}).about()
    assert about["endpoint"] == told
    assert "//" not in json.dumps(about)


def test_an_estimate_grows_with_the_chains(file: Path) -> None:
    short = ingest(Source(files=[lines(file, [row()])])).records
    long = ingest(
        Source(files=[lines(file, [row(deepseek_thinking_trajectory="So it is 2. " * 900)])])
    ).records
    prices = Prices(input=1.0, output=8.0)
    few, many = (estimate(records, Recipe("m"), prices) for records in (short, long))
    assert many.usage.input > few.usage.input + 3 * 900 * 12 / 4
    assert few.calls <= 7 and many.calls == pytest.approx(4 + 2 * 4.6)
    assert few.worst_calls == many.worst_calls, "a bound trusts no length"
    assert few.cost == pytest.approx(prices.of(few.usage))
    assert few.worst_cost > few.cost and few.worst_tokens > few.usage.input
    assert estimate([], Recipe("m"), prices).worst_tokens == 0
