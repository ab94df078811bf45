"""Which part of an output is its answer, and whether it is right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.evaluation.answers import extract, is_cut
from sglang_multiverse.evaluation.grading import Grader


@pytest.mark.parametrize(
    ("output", "answer", "rule"),
    [
        ("so \\boxed{12}.", "12", "boxed"),
        ("\\boxed{1} then \\boxed{2}", "2", "boxed"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "boxed"),
        ("\\boxed{ \\{1, 2\\} }", "\\{1, 2\\}", "boxed"),
        ("\\fbox {7}", "7", "boxed"),
        ("<Think>\\boxed{3}</Think>\n\nAnswer: \\boxed{4}", "4", "boxed"),
        ("<Think>\\boxed{3}</Think>\n\nAnswer: We begin by", "3", "boxed"),
        ("<Think>Answer: 3</Think>\n\nAnswer: 4", "4", "answer"),
        ("<Think>Answer: 3</Think>\n\nno more", None, "none"),
        ("<Think>a</Think>b</Think>\nAnswer: $5$.", "5", "answer"),
        ("**Answer:** 6<|im_end|>", "6", "answer"),
        ("Answer: 1\nAnswer:\n", "1", "answer"),
        ("final answer: B 12", "B 12", "answer"),
        ("\\boxed{}", None, "none"),
        ("\\boxed{1", None, "none"),
        ("\\boxed{1} \\boxed{2", "1", "boxed"),
        ("an unanswered: question", None, "none"),
        ("", None, "none"),
    ],
)
def test_what_the_answer_is(output: str, answer: str | None, rule: str) -> None:
    found = extract(output)
    assert (found.answer, found.rule) == (answer, rule)


@given(st.text(alphabet=st.sampled_from("\\boxed{}Answer: \n</Think>$12é\0"), max_size=80))
def test_nothing_makes_it_raise(output: str) -> None:
    found = extract(output)
    assert (found.answer is None) == (found.rule == "none")


def test_what_counts_as_cut() -> None:
    assert is_cut("<Think>so")
    assert not is_cut("<Think>so</Think>\nAnswer: 1")
    assert not is_cut("<Think>so", "stop")
    assert is_cut("<Think>so</Think>", "length")
    assert is_cut("", "max_tokens")


@pytest.fixture(scope="module")
def grader():
    with Grader(2) as one:
        yield one


@pytest.mark.parametrize(
    ("output", "reference", "comparison", "correct"),
    [
        ("\\boxed{0.5}", "\\frac{1}{2}", "mathematics", True),
        ("\\boxed{073}", "73", "mathematics", True),
        ("\\boxed{2}", "\\boxed{2}", "mathematics", True),
        ("\\boxed{3}", "2", "mathematics", False),
        ("Answer: (B)", "B", "choice", True),
        ("\\boxed{\\text{B}}", "B", "choice", True),
        ("\\boxed{B: since}", "B", "choice", True),
        ("\\boxed{Boron}", "B", "choice", False),
        ("\\boxed{C}", "B", "choice", False),
        ("Answer: A  12.", "A 12", "words", True),
        ("Answer: A 12", "B 12", "words", False),
        ("nothing", "1", "mathematics", False),
    ],
)
def test_grading(grader, output, reference, comparison, correct) -> None:
    assert grader(output, reference, comparison).correct is correct


def test_a_pair_that_takes_too_long_is_undecided() -> None:
    with Grader(1, seconds=0.5) as grader:
        assert grader("\\boxed{9^{9^{9^{9}}}}", "\\frac{1}{9^{9^{9^{8}}}}").correct in (None, False)
        assert grader("\\boxed{0.5}", "1/2").correct is True, "its worker starts again"


def test_the_real_traces_are_graded_as_they_are_labelled(grader, traces) -> None:
    names = ("wellformed", "plain", "malformed")
    outputs = {one["id"]: one["output"] for name in names for one in traces(name)}
    labels = traces("labels")
    assert len(labels) == 187
    graded = grader.all(
        {"output": outputs[one["id"]], "reference": one["reference"] or ""} for one in labels
    )
    gradable = [
        (bool(grade.correct), bool(label["graded_correct"]))
        for grade, label in zip(graded, labels, strict=True)
        if label["reference"] is not None
    ]
    assert len(gradable) == 98
    assert sum(one == two for one, two in gradable) == 98
