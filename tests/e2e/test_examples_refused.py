"""Examples where a server is missing, is not one of the plugin's, or refuses a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.running import fails, run

from .client import Client

pytestmark = pytest.mark.weights("tiny")
CLIENTS = ["openai_client.py", "stream_paths.py"]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_server_without_the_plugin_is_said_to_be_one(
    name: str, stock: Client, tmp_path: Path
) -> None:
    said = fails(name, "--url", stock.server.url, cwd=tmp_path)
    assert said.endswith("started with --plugin multiverse?\n")


def test_a_batch_goes_on_after_a_half_line_a_blank_one_and_a_question_too_long(
    overlap: Client, tmp_path: Path
) -> None:
    answers, questions = tmp_path / "answers.jsonl", tmp_path / "mine.txt"
    asked = ["Let A = 1+1. What is A?", "long " * 30_000, "Let A = 2+2. What is A?"]
    questions.write_text("\n\n".join(asked) + f"\n  \n{asked[0]}\n")
    whole = json.dumps({"question": asked[0], "answer": "kept"}) + "\n"
    answers.write_text(whole + '{"question": "Let A = 2+2. Wh')
    options = (answers, "--url", overlap.server.url, "--questions", questions)
    said = fails("batch.py", *options, cwd=tmp_path)
    assert "refused: 'long long" in said
    assert said.endswith("1 refused\n")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["question"] for row in rows] == [asked[0], asked[2]]
    assert rows[0]["answer"] == "kept"
    questions.write_text(asked[2])
    assert run("batch.py", *options, cwd=tmp_path).startswith("nothing to ask")
