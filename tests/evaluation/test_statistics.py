"""Standard errors and intervals against sums done by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.evaluation.statistics import (
    difference,
    majority,
    mean,
    pass_at,
    ratio,
    share,
    student,
)


def test_a_share_of_questions_asked_once() -> None:
    """3 of 4 right: means 1, 1, 1, 0; their standard deviation is 0.5, over √4 0.25."""
    found = share({"a": [1], "b": [1], "c": [1], "d": [0]})
    assert found.value == 0.75
    assert found.se == pytest.approx(0.25)
    # p(1 − p)/se² = 0.1875/0.0625 = 3 effective runs; t(3) = 3.182.
    t, n = 3.18245, 3.0
    centre = (0.75 + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * math.sqrt(0.1875 / n + t * t / (4 * n * n))
    assert found.low == pytest.approx(centre - half, abs=1e-4)
    assert found.high == pytest.approx(centre + half, abs=1e-4)
    assert (found.questions, found.runs) == (4, 4)


def test_runs_of_one_question_are_no_independent_ones() -> None:
    """Asked twice, with the same outcome each time: nothing is learnt from the second."""
    once = share({"a": [1], "b": [1], "c": [1], "d": [0]})
    twice = share({"a": [1, 1], "b": [1, 1], "c": [1, 1], "d": [0, 0]})
    assert twice.se == pytest.approx(once.se)
    mixed = share({"a": [1, 0], "b": [1, 0], "c": [0, 1], "d": [1, 0]})
    assert mixed.value == 0.5
    assert mixed.se == 0.0, "every question has the same share"
    assert mixed.low < 0.5 < mixed.high, "which is no certainty"


def test_all_right_leaves_room_for_doubt() -> None:
    found = share({str(i): [1.0] for i in range(30)})
    t = 2.04523
    assert (found.value, found.se, found.high) == (1.0, 0.0, 1.0)
    assert found.low == pytest.approx(30 / (30 + t * t), abs=1e-4)
    none = share({str(i): [0.0] for i in range(30)})
    assert (none.low, none.high) == (0.0, pytest.approx(1 - found.low))


runs = st.dictionaries(
    st.text(min_size=1, max_size=2),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4),
    min_size=1,
    max_size=12,
)


@given(runs)
def test_an_interval_stays_in_its_bounds(some) -> None:
    found = share(some)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(runs)
def test_means_of_equal_numbers_are_what_the_textbook_says(some) -> None:
    equal = {question: [values[0], values[-1]] for question, values in some.items()}
    found = mean(equal)
    means = [statistics.fmean(values) for values in equal.values()]
    assert found.value == pytest.approx(statistics.fmean(means))
    if len(means) > 1:
        assert found.se == pytest.approx(statistics.stdev(means) / math.sqrt(len(means)), abs=1e-12)
    else:
        assert math.isnan(found.se)


def test_a_ratio_of_sums() -> None:
    """Σ tokens 60, Σ critical 40: 1.5. Residuals 10 − 15 = −5, 20 − 15 = 5, 30 − 30 = 0: √(3/2 ·
    50)/40."""
    found = ratio({"a": [10], "b": [20], "c": [30]}, {"a": [10], "b": [10], "c": [20]})
    assert found.value == 1.5
    assert found.se == pytest.approx(math.sqrt(1.5 * 50) / 40)
    assert found.low == pytest.approx(1.5 - student(2) * found.se)


def test_differences_are_paired() -> None:
    one = {"a": [1, 1], "b": [1, 0], "c": [0, 0], "only here": [1]}
    two = {"a": [1, 0], "b": [0, 0], "c": [0, 0], "only there": [0]}
    found = difference(one, two)
    # 0.5, 0.5, 0: mean 1/3, standard deviation 0.28868, over √3 1/6.
    assert found.value == pytest.approx(1 / 3)
    assert found.se == pytest.approx(1 / 6)
    assert found.questions == 3


def test_pass_at_k_is_the_chance_over_all_choices() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 0.0]
    for k in range(1, 6):
        chosen = list(itertools.combinations(values, k))
        by_hand = sum(any(some) for some in chosen) / len(chosen)
        assert pass_at({"a": values}, k).value == pytest.approx(by_hand)
    assert pass_at({"a": [1.0]}, 2).questions == 0


def test_the_majority() -> None:
    given = {
        "right": [("1", True), ("1.0", True), ("2", False)],
        "wrong": [("1", True), ("2", False), ("2", False)],
        "tie": [("1", True), ("2", False), (None, False)],
        "silent": [(None, False), (None, False), (None, False)],
    }
    assert majority(given, 3).value == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    # Of one run each: 2/3, 1/3, 1/3 and 0. Of two: "right" all but the tie of two pairs (1 + 1/2
    # + 1/2) / 3, "wrong" (1/2 + 1/2 + 0) / 3, "tie" (1/2 + 1 + 0) / 3.
    assert majority(given, 1).value == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 0) / 4)
    assert majority(given, 2).value == pytest.approx((2 / 3 + 1 / 3 + 1 / 2 + 0) / 4)


def test_a_majority_of_many_runs_is_averaged_over_some_of_their_choices() -> None:
    votes = [("1", True)] * 20 + [("2", False)] * 20
    found = majority({"a": votes}, 11)
    assert found.value == pytest.approx(0.5, abs=0.03)
    assert found == majority({"a": votes}, 11)


def test_nothing_gives_nothing() -> None:
    for found in (share({}), mean({}), ratio({"a": [0]}, {"a": [0]}), difference({}, {})):
        assert math.isnan(found.value)
        assert found.row()["value"] is None
