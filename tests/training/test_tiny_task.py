"""The tiny model's task: right answers, canonical texts, splits that are apart."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny.factory.exam import encode
from sglang_multiverse.tiny.solution import solution
from sglang_multiverse.tiny.task import (
    DESCRIPTION,
    KINDS,
    NotUnderstood,
    generate,
    grade,
    prompt,
    split_of,
    understand,
    understands,
)

PROBLEMS = list(islice(generate(7, "train"), 300))


def evaluated(question: str) -> dict[str, int]:
    """Values by Python itself, from the question's own text."""
    given = question.removeprefix("Let ").split(". W")[0]
    known: dict[str, int] = {}
    for piece in given.split(", "):
        name, expression = piece.split(" = ")
        known[name] = eval(expression, {}, dict(known))
    return known


def test_answers_are_those_of_ordinary_arithmetic():
    for problem in PROBLEMS:
        question = str(problem)
        values = evaluated(question)
        if problem.ask in ("value", "sum"):
            names = re.search(r"What is (.*)\?", question)[1].split(" + ")
            assert problem.answer == str(sum(values[name] for name in names))
        else:
            best = max if problem.ask == "largest" else min
            name = best(problem.asked, key=values.__getitem__)
            assert problem.answer == f"{name} = {values[name]}"


def number(term: str) -> int:
    """The value of a term whose numbers may begin with zeros."""
    return eval(re.sub(r"\b0+(?=\d)", "", term))


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_worked_answers_end_right_and_every_equation_holds(mode):
    for problem in PROBLEMS:
        text = solution(problem, mode)
        assert grade(text, problem)
        assert grade(text + "<|im_end|>\n", problem)
        assert not grade(text[:-1] + ("1" if text[-1] != "1" else "2"), problem)
        for line in re.findall(r"s: (\S+)\n", text):
            first, second, *third = line.split("=")
            assert number(first) == number(second.split("+")[0] if third else second), line
            assert not third or number(second) == number(third[0]), line
        for name, value in re.findall(r"So ([A-Z]) is (\d{4})\n", text):
            assert problem.values[name] == int(value)


def test_parallel_answers_are_canonical_and_fork_where_parts_are_independent(tokenizer, dialect):
    degrees = []
    for problem in PROBLEMS:
        asked, answer = encode(problem, "parallel", tokenizer)
        trace = parse([*asked, *answer], dialect, strict=True)
        parts = [one for one in problem.definitions if not one.derived]
        later = [one for one in problem.definitions if one.derived]
        assert len(trace.blocks) == (len(parts) > 1) + bool(later)
        assert trace.depth == (0 if len(parts) < 2 else 1 + any(one.nested for one in parts))
        if trace.blocks:
            assert len(trace.blocks[0].paths) == len(parts)
            degrees.append(parallelism(trace, prompt_tokens=len(asked)).degree)
    assert sum(degrees) / len(degrees) > 1.5


def test_sequential_answers_have_no_block_and_the_same_lines(tokenizer, dialect):
    for problem in PROBLEMS[:100]:
        asked, answer = encode(problem, "sequential", tokenizer)
        assert parse([*asked, *answer], dialect, strict=True).blocks == []
        work = re.compile(r"^(?:ones|tens|hundreds|thousands|So|Here).*$", re.MULTILINE)
        both = [work.findall(solution(problem, mode)) for mode in ("parallel", "sequential")]
        assert both[0] == both[1]


def test_splits_share_no_problem_and_seeds_repeat():
    train = {str(problem) for problem in islice(generate(0, "train"), 500)}
    test = {str(problem) for problem in islice(generate(0, "test"), 200)}
    assert not train & test
    assert all(split_of(problem) == "test" for problem in islice(generate(5, "test"), 50))
    assert list(islice(generate(4, "test"), 20)) == list(islice(generate(4, "test"), 20))


def test_every_kind_is_made():
    for kind in KINDS:
        assert understands(str(next(generate(1, "train", {kind: 1.0}))))


def test_a_question_is_read_as_it_was_written():
    for problem in PROBLEMS:
        assert understand(str(problem)) == problem
        assert understand(prompt(problem, "parallel")) == problem


@pytest.mark.parametrize(
    ("question", "canonical"),
    [
        ("a", None),
        (
            "A=482 + 395; B = 913 − 278. Which is the largest of A and B?",
            "Let A = 482+395, B = 913-278. Which is largest, A or B?",
        ),
        (
            "let A = 482+395 and B = 267×4, which one is the smallest, A or B?",
            "Let A = 482+395, B = 267*4. Which is smallest, A or B?",
        ),
        ("A = 100 * 7. What is A?", "Let A = 100*7. What is A?"),
        ("Let A = 1482+395, B = 100+100. What is A + B?", None),
        ("Let A = 200-300, B = 100+100. What is A + B?", None),
        ("Let A = 482+395, B = 913-278. What is B?", None),
        ("Let A = 100+200, B = 150+150. Which is largest, A or B?", None),
        ("Let B = 482+395, A = 913-278. What is B + A?", None),
        ("Why is the sky blue?", None),
        ("Let A = C + B, B = 913-278. What is A + B?", None),
    ],
)
def test_other_wordings_are_read_and_other_questions_refused(question, canonical):
    if canonical is None:
        assert not understands(question)
        with pytest.raises(NotUnderstood, match=r"\w+ \w+"):
            understand(question)
    else:
        assert str(understand(question)) == canonical


def test_the_description_holds_only_questions_that_are_understood():
    examples = [line.strip() for line in DESCRIPTION.splitlines() if line.startswith("  ")]
    assert len(examples) >= 3
    assert all(understands(example) for example in examples)


def test_the_dialect_is_found_in_the_tokenizer(tokenizer):
    dialect = Dialect.from_tokenizer(tokenizer)
    assert dialect.name == "multiverse"
    assert len(dialect.separator) == 1
    assert len(tokenizer.encode("1:")) == 2
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("4827")) == list("4827")


@pytest.mark.parametrize("text", ["naïve 漢字 🙂\t\r\n\n x", "<Path>\n2.1: A", "a<b>c </Path>", ""])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
