"""Examples that cannot be trained on as they are: dropped, cut at a legal place, or refused."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from datasets import Dataset

from sglang_multiverse.dialect import Tag
from sglang_multiverse.layout import layout
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny.factory.exam import encode
from sglang_multiverse.tiny.task import ALL_KINDS, generate
from sglang_multiverse.training.screen import IGNORED, ExampleError, judge, screen

Text = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def texts(tokenizer) -> list[Text]:
    """Ids and labels of worked answers, nested ones among them."""
    made = []
    for problem in islice(generate(5, "test", ALL_KINDS), 12):
        asked, answer = encode(problem, "parallel", tokenizer)
        made.append((asked + answer, [IGNORED] * len(asked) + answer))
    return made


def legal_cuts(ids: list[int], dialect: Any) -> set[int]:
    """Every length at which all that was opened by ``<Parallel>`` is closed again."""
    cuts, open_blocks = set(), 0
    for length in range(len(ids) + 1):
        if not open_blocks:
            cuts.add(length)
        if length < len(ids):
            open_blocks += (ids[length] == dialect[Tag.PARALLEL]) - (
                ids[length] == dialect[Tag.END_PARALLEL]
            )
    return cuts


def test_what_is_whole_and_short_enough_is_kept_whole(texts, dialect):
    for ids, labels in texts:
        verdict = judge(ids, labels, dialect, max_length=len(ids))
        assert (verdict.keep, verdict.reason) == (len(ids), None)
        assert verdict.critical_path == layout(ids, dialect).critical_path


def test_an_overlong_text_is_cut_at_the_last_legal_place(texts, dialect):
    inside = 0
    for ids, labels in texts:
        cuts = legal_cuts(ids, dialect)
        answer = next(i for i, label in enumerate(labels) if label != IGNORED)
        for limit in range(answer + 1, len(ids), 7):
            verdict = judge(ids, labels, dialect, max_length=limit, overlong="truncate")
            assert verdict.keep == max(cut for cut in cuts if cut <= limit)
            assert verdict.reason == f"longer than {limit} tokens"
            kept = parse(ids[: verdict.keep], dialect)
            assert {issue.code for issue in kept.issues} <= {"unclosed_think"}
            assert verdict.critical_path == layout(ids[: verdict.keep], dialect).critical_path
            inside += verdict.keep < limit
            dropped = judge(ids, labels, dialect, max_length=limit)
            assert (dropped.keep, dropped.reason) == (0, verdict.reason)
    assert inside > 50


def test_a_malformed_text_is_cut_before_the_block_that_is_wrong(texts, dialect):
    ids, labels = next((i, x) for i, x in texts if parse(i, dialect).n_blocks)
    at = ids.index(dialect[Tag.END_PATH])
    broken, rest = ids[:at] + ids[at + 2 :], labels[:at] + labels[at + 2 :]
    dropped = judge(broken, rest, dialect, max_length=None)
    assert dropped.keep == 0
    assert dropped.reason.startswith("malformed: ")
    cut = judge(broken, rest, dialect, max_length=None, malformed="truncate")
    assert cut.keep == broken.index(dialect[Tag.PARALLEL])


def test_a_dialogue_has_a_thought_for_each_turn_and_a_question_may_name_a_tag(texts, dialect):
    (first, a), (second, b) = texts[0], texts[1]
    twice = judge(first + second, a + b, dialect, max_length=None)
    assert (twice.keep, twice.reason) == (len(first) + len(second), None)
    inside = first.index(dialect[Tag.END_THINK])
    torn = first[:inside] + second, a[:inside] + b  # a thought in an open one
    assert judge(*torn, dialect, max_length=None).reason == "malformed: stray_tag"
    word = dialect[Tag.PATH]
    assert judge([word, *first], [IGNORED, *a], dialect, max_length=None).reason is None


def test_what_carries_no_label_is_dropped(texts, dialect):
    ids, _ = texts[0]
    assert judge(ids, [IGNORED] * len(ids), dialect, max_length=None).reason == "no labels"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_dataset_loses_what_is_dropped_and_says_how_much(texts, dialect, streamed):
    lengths = sorted(len(ids) for ids, _ in texts)
    limit = lengths[8]
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in texts]
    rows.append({"input_ids": [dialect[Tag.PATH]] * 3, "labels": [dialect[Tag.PATH]] * 3})
    dataset = Dataset.from_list(rows)
    given = dataset.to_iterable_dataset() if streamed else dataset
    kept, counts = screen(given, dialect, max_length=limit)
    assert [row["input_ids"] for row in kept] == [i for i, _ in texts if len(i) <= limit]
    assert set(next(iter(kept))) == {"input_ids", "labels"}
    if streamed:
        assert counts is None
        return
    assert counts.kept == sum(length <= limit for length in lengths)
    over = sum(length > limit for length in lengths)
    assert counts.dropped[f"longer than {limit} tokens"] == over
    assert counts.dropped.total() == over + 1
    chains = [layout(i, dialect).critical_path for i, _ in texts if len(i) <= limit]
    assert counts.parallelism == sum(counts.lengths) / sum(chains)
    assert any("dropped 1: malformed" in line for line in counts.lines())


def test_errors_name_the_example_and_the_remedy(texts, dialect):
    rows = Dataset.from_list([{"input_ids": i, "labels": x} for i, x in texts])
    with pytest.raises(ExampleError, match=r"example 0 of the train .*overlong='drop'"):
        screen(rows, dialect, max_length=20, overlong="error")
    with pytest.raises(ExampleError, match="no example of the eval dataset can be trained on"):
        screen(rows, dialect, max_length=20, name="eval")
