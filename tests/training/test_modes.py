"""Rows made over: the autoregressive twin, and the sentence that chooses the mode."""

from __future__ import annotations

import pytest

from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.tiny.dataset import messages
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.modes import RowError, to_autoregressive, with_prompt_mode

ROW = messages(next(generate(0, "test", {"compare": 1.0})), "parallel")
TEXT = ROW["completion"][0]["content"]
ASKED = ROW["prompt"][0]["content"]


@pytest.mark.parametrize("form", ["messages", "prompt and completion", "texts"])
def test_the_twin_is_flat_and_asked_for_step_by_step(form):
    row = {
        "messages": {"messages": ROW["prompt"] + ROW["completion"]},
        "prompt and completion": ROW,
        "texts": {"prompt": ASKED, "completion": TEXT},
    }[form]
    made = str(to_autoregressive(row))
    assert "<Path>" not in made
    assert "in parallel" not in made
    assert MULTIVERSE.sequential_prompt in made
    assert repr(flatten_text(TEXT))[1:-1] in made
    assert "<Path>" in str(row), "the row that was given is left alone"


@pytest.mark.parametrize(
    ("mode", "answer", "ending"),
    [
        ("parallel", "Four.", MULTIVERSE.parallel_prompt),
        ("sequential", TEXT, MULTIVERSE.sequential_prompt),
        ("auto", TEXT, MULTIVERSE.parallel_prompt),
        ("auto", "Four.", MULTIVERSE.sequential_prompt),
    ],
)
@pytest.mark.parametrize("question", ["2+2?", f"2+2? {MULTIVERSE.parallel_prompt}\n", "2+2?\n"])
def test_a_question_ends_in_one_sentence(mode, answer, ending, question):
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
    made = with_prompt_mode(row, mode)
    assert made["messages"][1]["content"] == f"2+2? {ending}"
    assert row["messages"][1]["content"] == question
    space = question[len(question.rstrip()) :]
    text = with_prompt_mode({"prompt": question, "completion": answer}, mode)["prompt"]
    assert text == f"2+2? {ending}{space}", "a line break before the answer stays"


def test_rows_without_such_texts_are_named():
    with pytest.raises(RowError, match="found \\['text'\\]"):
        to_autoregressive({"text": "A"})
    with pytest.raises(RowError, match="no user turn"):
        with_prompt_mode({"messages": [{"role": "system", "content": "A"}]}, "parallel")
