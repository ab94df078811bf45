"""Eight passes, each text four times, parallel ones coming in."""

from __future__ import annotations

from collections import Counter

import pytest

from sglang_multiverse.curriculum import STAGES, curriculum


@pytest.mark.parametrize("rows", [1, 7, 10, 200])
def test_every_text_is_shown_four_times_and_every_question_once_a_pass(rows: int) -> None:
    passes = curriculum(rows, seed=3)
    assert len(passes) == len(STAGES) == 8
    shown = Counter(item for one in passes for item in one)
    assert set(shown.values()) == {4}
    assert len(shown) == 2 * rows
    for one, share in zip(passes, STAGES, strict=True):
        assert sorted(row for row, _ in one) == list(range(rows))
        assert abs(sum(parallel for _, parallel in one) - share * rows) <= 0.5


def test_the_same_seed_gives_the_same_order_and_another_one_another() -> None:
    assert curriculum(50, 1) == curriculum(50, 1)
    assert curriculum(50, 1) != curriculum(50, 2)
