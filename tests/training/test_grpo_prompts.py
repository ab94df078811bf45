"""Prompts of any dataset: what is read, and what is said of data that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.training.grpo.prompts import Reading, read_splits, that_fit
from sglang_multiverse.training.sources import SourceError


def jsonl(tmp_path: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


QUESTIONS = [{"question": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(30)]


def test_every_kind_of_file_and_folder_gives_the_same_prompts(tmp_path: Path) -> None:
    rows = Dataset.from_list(QUESTIONS)
    rows.to_csv(tmp_path / "rows.csv")
    rows.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(QUESTIONS))
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    jsonl(tmp_path / "folder", QUESTIONS)
    names = ["rows.csv", "rows.parquet", "rows.json", "saved", "folder"]
    for name in (jsonl(tmp_path, QUESTIONS), *(str(tmp_path / name) for name in names)):
        train, test = read_splits(name, Reading("question"), exam=2)
        assert (len(train), len(test)) == (28, 2), name
        assert train[3]["prompt"] == [{"role": "user", "content": "What is 3+3?"}]
        assert str(train[3]["answer"]) == "6"
        assert test[0]["question"] == "What is 28+28?"  # held out


def test_a_text_or_messages_with_an_ending_and_a_system_message() -> None:
    reading = Reading(ending="Think.", system="Be brief.")
    asked = {"role": "user", "content": "Why?"}
    ended = {"role": "user", "content": "Why? Think."}
    system = {"role": "system", "content": "Be brief."}
    assert reading.prompt("Why? ", "row") == [system, ended]
    assert reading.prompt([asked], "row") == [system, ended]
    own = {"role": "system", "content": "Be long."}
    assert reading.prompt([own, asked], "row") == [own, ended]
    assert Reading(format="raw").prompt("Once upon", "row") == "Once upon"
    parallel = Reading(ending="parallel").prompt("Why?", "row")
    assert parallel[-1]["content"] == f"Why? {MULTIVERSE.parallel_prompt}"


@pytest.mark.parametrize(
    "value",
    [None, "", "  ", [], 3, {"role": "user"}, [{"role": "user"}], [None],
     [{"role": "user", "content": None}],
     [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
     [{"role": "user", "content": [{"type": "image"}]}]],
)  # fmt: skip
def test_what_is_no_prompt_is_named_with_its_row(value: Any) -> None:
    with pytest.raises(SourceError, match="data, row 7: prompt") as error:
        Reading().prompt(value, "data, row 7")
    assert "\n" not in str(error.value)


def test_splits_of_a_dataset(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": "p", "answer": 1}] * 9)
    splits = {"train": rows, "validation": rows.select(range(4)), "odd": rows.select(range(3))}
    DatasetDict(splits).save_to_disk(tmp_path / "d")
    train, test = read_splits(str(tmp_path / "d"), Reading(), exam=100)
    assert (len(train), len(test)) == (9, 4)
    train, test = read_splits(str(tmp_path / "d"), Reading(), split="odd", test_split="odd", exam=1)
    assert (len(train), len(test)) == (3, 1)
    with pytest.raises(SourceError, match="no split 'tests'; it has train, validation, odd"):
        read_splits(str(tmp_path / "d"), Reading(), test_split="tests")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (QUESTIONS, "has no column 'prompt'; it has question, answer.*--prompt_column"),
        ([{"prompt": "p", "forks": 1}], "has the columns forks, names that rewards are given"),
        ([{"prompt": "p", "completions": 1}], "has the columns completions"),
        ([{"prompt": "p"}, {"prompt": None}], "row 1: prompt is None"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        read_splits(jsonl(tmp_path, rows), Reading())


@pytest.mark.parametrize(
    ("name", "text"),
    [("broken.jsonl", '{"prompt": "x"\n{{'), ("empty.jsonl", ""), ("b.parquet", "no parquet"),
     ("bytes.csv", "\udcff\udcfe"), ("mixed.jsonl", '{"prompt": "x"}\n{"prompt": [1]}')],
)  # fmt: skip
def test_files_that_cannot_be_read_say_so_in_a_line(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SourceError) as error:
        read_splits(str(path), Reading())
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dataset_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match=r"nobody/nothing cannot be read.*a dataset of the Hub"):
        read_splits("nobody/nothing", Reading())


def test_prompts_that_leave_no_room_are_left_out(tokenizer: Any) -> None:
    rows = Dataset.from_list([{"prompt": "one two"}, {"prompt": "many words " * 50}])
    kept, over = that_fit(rows, tokenizer, 20)
    assert (len(kept), over) == (1, 1)
    with pytest.raises(SourceError, match="each of 2 prompts takes over 1 tokens"):
        that_fit(rows, tokenizer, 1)


def test_messages_need_a_chat_template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "q"}]}])
    assert that_fit(rows, tokenizer, 100)[1] == 0
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(SourceError, match=r"has no chat template.*prompt_format: raw"):
        that_fit(rows, tokenizer, 100)
