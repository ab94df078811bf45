"""Medians, spreads and a bootstrap interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, greatest and all of ``values``."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": list(values),
    }


def ratio_interval(
    pairs: Sequence[tuple[float, float]], *, share: float = 0.95, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """How many times the first of each pair is the second: the median of the pairs' ratios, and the
    bootstrap interval that holds ``share`` of the medians of resampled pairs.

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs:
        raise ValueError("no pairs to compare")
    rng = random.Random(seed)
    ratios = [first / second for first, second in pairs]
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    cut = int(draws * (1 - share) / 2)
    return statistics.median(ratios), medians[cut], medians[-1 - cut]
