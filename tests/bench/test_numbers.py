"""Intervals hold what they say they hold."""

from __future__ import annotations

from random import Random

import pytest

from sglang_multiverse.bench.numbers import ratio_interval, spread


def test_an_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    rng = Random(0)
    covered = 0
    for trial in range(100):
        pairs = [
            (1.02 * rng.lognormvariate(0, 0.05), rng.lognormvariate(0, 0.05)) for _ in range(30)
        ]
        ratio, low, high = ratio_interval(pairs, draws=400, seed=trial)
        assert low <= ratio <= high
        covered += low <= 1.02 <= high
    assert 85 <= covered <= 100


def test_equal_pairs_leave_no_doubt() -> None:
    assert ratio_interval([(2.0, 1.0)] * 5) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no pairs"):
        ratio_interval([])


def test_a_spread_is_of_the_runs() -> None:
    assert spread([3.0, 1.0, 2.0]) == {
        "median": 2.0,
        "low": 1.0,
        "high": 3.0,
        "runs": [3.0, 1.0, 2.0],
    }
