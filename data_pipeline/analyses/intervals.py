"""Intervals: how far a figure may be off because it was measured on a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]

#: Two-sided 95 % of a normal distribution.
_Z = 1.959963984540054

#: Resamples of a bootstrap.
RESAMPLES = 2000


def wilson(hits: int, of: int) -> Interval:
    """The 95 % interval of a share (Wilson 1927); the whole range where nothing was counted.

    >>> low, high = wilson(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if not of:
        return 0.0, 1.0
    share = hits / of
    scale = 1 + _Z**2 / of
    centre = (share + _Z**2 / (2 * of)) / scale
    half = _Z * math.sqrt(share * (1 - share) / of + _Z**2 / (4 * of**2)) / scale
    return max(centre - half, 0.0), min(centre + half, 1.0)


def bootstrap_mean(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Interval:
    """The 95 % percentile interval of the mean of ``values``, of which there is one at least."""
    groups = np.arange(len(values))
    return clustered_mean(np.asarray(values, dtype=float), groups, seed, resamples)


def clustered_mean(
    values: npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer],
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """The 95 % percentile interval of the mean of ``values``, whole groups drawn at a time.

    Args:
        values: shape ``(n,)``.
        groups: group of each value, shape ``(n,)``; values of one group stand or fall together.
    """
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=values)
    sizes = np.bincount(index)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for one in range(resamples):
        drawn = rng.integers(len(sums), size=len(sums))
        means[one] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
