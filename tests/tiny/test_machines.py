"""The task of the replication: its questions, worked answers, and what is said of wrong ones."""

from __future__ import annotations

import random
import re
import sys
from itertools import islice
from pathlib import Path

import pytest

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny.factory.machines import (
    KEYS,
    _find,
    _repeat,
    in_passes,
    machines_tokenizer,
    rows,
)
from sglang_multiverse.tiny.machines import (
    COUNTS,
    MACHINES,
    NUMBERS,
    TABLES,
    grade,
    prompt,
    questions,
    solution,
    split_of,
    understand,
)
from sglang_multiverse.tiny.task import NotUnderstood


@pytest.fixture(scope="module")
def tokenizer():
    return machines_tokenizer()


TWO = "a red 1 9 times and b blue 4 9 times"


def some(count: int = 40, **options):
    return list(islice(questions(7, "train", **options), count))


def test_a_machine_is_one_round_through_all_numbers():
    assert set(TABLES) == set(MACHINES)
    for table in TABLES.values():
        seen, number = [], 0
        for _ in range(NUMBERS):
            seen.append(number)
            number = table[number]
        assert sorted(seen) == list(range(NUMBERS))
        assert number == 0
    assert len(set(TABLES.values())) == len(MACHINES)


def test_questions_are_reproducible_and_no_run_is_in_both_splits():
    assert some() == some()
    runs = {split: set() for split in ("train", "test")}
    for split, kept in runs.items():
        for question in islice(questions(1, split), 300):
            kept.update(question.runs)
            assert all(split_of(run) == split for run in question.runs)
            assert len({run.end for run in question.runs}) == len(question.runs)
            assert len({run.machine for run in question.runs}) == len(question.runs)
    assert not runs["train"] & runs["test"]
    assert min(map(len, runs.values())) > 100


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_worked_answer_is_canonical_and_right(tokenizer, mode, nested):
    dialect = Dialect.from_tokenizer(tokenizer)
    for question in some(15, counts=(2, 4), nested=nested):
        text = solution(question, mode)
        assert grade(text, question)
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        trace = parse(ids, dialect, strict=True)
        wanted = 0 if mode == "sequential" else 1 + nested
        assert max((depth for _, depth in trace.walk()), default=0) == wanted
        for run in question.runs:
            assert f"end {run.name.upper()} {run.end}\n" in text


def test_paths_are_as_long_as_they_are_said_to_be(tokenizer):
    dialect = Dialect.from_tokenizer(tokenizer)
    lengths = []
    for question in some(40):
        ids = tokenizer.encode(solution(question, "parallel"), add_special_tokens=False)
        (block,) = parse(ids, dialect).blocks
        assert len(block.paths) == len(question.runs)
        lengths += [path.end - path.start for path in block.paths]
    assert min(lengths) >= 120
    assert max(lengths) <= 200


def test_the_answer_is_the_run_that_ends_highest():
    for question in some(60) + some(30, counts=(2, 4), nested=True):
        best = max(question.runs, key=lambda run: run.end)
        assert question.answer == f"{best.name.upper()} {best.end}"
        assert not grade(f"Answer: {best.name.upper()} {best.end - 1}", question)
        assert not grade("", question)


def test_a_question_is_read_back_from_its_wording():
    for question in some(40) + some(20, counts=(2, 4), nested=True):
        for mode in ("parallel", "sequential"):
            assert understand(prompt(question, mode)) == question
            shouted = prompt(question, mode).replace(", ", " ,  ").upper()
            assert understand(shouted) == question
            unnamed = re.sub(r"\b[a-h] ", "", str(question))
            assert understand(unnamed) == question


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("What is two and two?", "a question reads"),
        ("Which ends highest: red?", "'red' is no run"),
        ("Which ends highest: red 1 9 times?", "two to 8 runs"),
        ("Which ends highest: red 1 9 times, gold 2 9 times?", "'gold'"),
        ("Which ends highest: red 1 9 times, blue 40 9 times?", "0 to 39"),
        ("Which ends highest: red 1 9 times, blue 4 90 times?", "8 to 12"),
        ("Which ends highest: red 1 9 times, red 4 9 times?", "once"),
        (f"Which ends highest: {', '.join(['red 1 9 times'] * 9)}?", "at most 8"),
        (f"Which ends highest: {TWO}, pink 1 9 times?", "pairs"),
    ],
)
def test_what_is_no_question_is_refused_by_name(question, message):
    with pytest.raises(NotUnderstood, match=message):
        understand(question)


def test_batches_hold_texts_of_one_size_and_steps_only_add():
    kinds = {("parallel", False): 0.5, ("sequential", True): 0.5}
    short, long = (rows(3, steps, 4, kinds) for steps in (6, 9))
    assert long[: len(short)] == short
    for step in range(9):
        count = COUNTS[step % len(COUNTS)]
        for one in long[4 * step : 4 * step + 4]:
            asked = one["prompt"][0]["content"]
            assert asked.count(" times") in (count, max(count, 4))


def test_short_runs_come_first():
    data = rows(3, 7, 2, {("parallel", False): 1.0}, easy_steps=3)
    said = [one["completion"][0]["content"] for one in data]
    longest = [len(one) for one in said]
    assert max(longest[:2]) < min(longest[6:8])
    assert all(one["prompt"][0]["content"].startswith("Which ends highest: a ") for one in data)


def said_and_asked(one):
    return one["prompt"][0]["content"], one["completion"][0]["content"]


def test_lookups_name_all_that_a_task_looks_up_by():
    rng = random.Random(5)
    words = set()
    for _ in range(40):
        asked, said = said_and_asked(_repeat(rng))
        assert said == asked
        words.update(asked.split())
    assert words == {"Repeat:", *MACHINES, *KEYS, *map(str, range(NUMBERS))}


def test_what_is_found_was_given_and_can_be_told_by_its_first_word():
    rng = random.Random(5)
    for _ in range(40):
        asked, said = said_and_asked(_find(rng))
        given = asked.removeprefix("Find ").split(", ")
        found = said.removeprefix("Found ").split(", ")
        assert len(found) == 12
        assert set(found) <= set(given)
        assert len({one.split()[0] for one in given}) == len(given)


def test_eight_passes_show_each_question_eight_times_from_flat_to_blocks():
    data = in_passes(0, 48, 2)
    assert len(data) == 48 * 2
    blocks = ["<Parallel>" in one["completion"][0]["content"] for one in data]
    share = [sum(blocks[i : i + 12]) / 12 for i in range(0, 96, 12)]
    assert share[:2] == [0, 0]
    assert share[-2:] == [1, 1]
    names = {one["prompt"][0]["content"].split("?")[0] for one in data}
    assert len(names) == 12


@pytest.fixture
def cause(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(repository / "benchmarks"), *sys.path])
    from replication_errors import cause

    return cause


def test_where_runs_end_needs_no_comparison():
    for question, other in zip(some(6, asks="ends"), some(6), strict=True):
        assert question.runs == other.runs
        assert understand(str(question)) == question
        assert question.answer == ", ".join(f"{r.name.upper()} {r.end}" for r in question.runs)
        for mode in ("parallel", "sequential"):
            text = solution(question, mode)
            assert "ahead" not in text
            assert grade(text, question)
            assert not grade(text.replace(f"Answer: {question.answer}", "Answer: A 1"), question)
        ends = "\n".join(f"end {r.name.upper()} {r.end}" for r in question.runs)
        assert f"<Conclusion>\n{ends}\n</Conclusion>" in solution(question, "parallel")
    with pytest.raises(ValueError, match="single"):
        next(questions(0, "test", counts=(2,), nested=True, asks="ends"))
    with pytest.raises(NotUnderstood, match="single"):
        understand("Where do they end: red 12 11 times and blue 3 9 times, or pink 3 8 times?")


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_what_goes_wrong_where_all_ends_are_asked(cause, mode):
    question = some(1, counts=(2,), asks="ends")[0]
    text = solution(question, mode)
    assert cause(text, question, mode) == "right"
    bad = text.replace(f"Answer: {question.answer}", "Answer: none")
    assert cause(bad, question, mode) == "wrong answer"
    broken = bad.replace(f"end A {question.runs[0].end}\n", "end A 99\n", 1)
    assert broken != bad
    assert cause(broken, question, mode) == "wrong path"


def test_what_goes_wrong_first_is_named(cause):
    question = some(1, counts=(4,))[0]
    text = solution(question, "parallel")
    first, second = question.runs[:2]
    best = question.answer
    assert cause(text + "<|im_end|>", question, "parallel") == "right"
    bad_answer = text.replace(f"Answer: {best}", "Answer: none")
    assert cause(bad_answer, question, "parallel") == "wrong answer"
    conclusion = f"<Conclusion>\nend A {first.end}"
    assert conclusion in text
    slipped = text.replace(conclusion, f"<Conclusion>\nend A {first.end + 1}")
    assert cause(slipped, question, "parallel") == "slip"
    assert cause(bad_answer.replace(conclusion, "<Conclusion>\nend X"), question, "parallel") == (
        "wrong conclusion"
    )
    path = f"end B {second.end}\n</Path>"
    assert path in text
    broken = bad_answer.replace(path, "end B 99\n</Path>")
    assert cause(broken, question, "parallel") == "wrong path"
    fork = bad_answer.replace("<Outline>\n2:", "<Outline>\n2: a")
    assert cause(fork, question, "parallel") == "wrong fork"
    assert cause("<Think>\nWell.\n</Think>\n\nAnswer: x", question, "parallel") == "no fork"
    assert cause("", question, "parallel") == "no fork"


def test_sequential_work_is_told_apart_alike(cause):
    question = some(1, counts=(2,))[0]
    text = solution(question, "sequential")
    assert cause(text, question, "sequential") == "right"
    lines = text.splitlines()
    for at, line in enumerate(lines):
        broken = "\n".join([*lines[:at], line + "x", *lines[at + 1 :]])
        broken = broken.replace(f"Answer: {question.answer}", "Answer: none")
        found = cause(broken, question, "sequential")
        if "ahead" in line:
            assert found == "wrong conclusion"
        elif at < lines.index("</Think>") - 2:
            assert found == "wrong path"
        else:
            assert found == "wrong answer"
    cut = "\n".join(lines[:9])
    assert cause(cut, question, "sequential") == "wrong path"


def test_the_mode_is_chosen_by_the_sentence_at_the_end():
    question = some(1)[0]
    asked = {mode: prompt(question, mode) for mode in ("parallel", "sequential")}
    assert asked["parallel"] != asked["sequential"]
    assert all(text.startswith(str(question)) for text in asked.values())
