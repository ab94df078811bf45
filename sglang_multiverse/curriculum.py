"""The curriculum from autoregressive to parallel text (arXiv 2506.09991, section on training).

Eight passes over the same questions. In each, every question is answered once, by its parallel text
or by its autoregressive twin; the share of parallel ones rises. Over all passes each of the two is
shown four times.
"""

from __future__ import annotations

import random

#: Share of parallel rows in each pass.
STAGES = (0.0, 0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.0)
#: Passes whose parallel rows are each other's complement.
_PAIRS = ((2, 5), (3, 4))


def curriculum(rows: int, seed: int = 0) -> list[list[tuple[int, bool]]]:
    """Which text of which row, pass by pass, in training order.

    Returns:
        One list for each of :data:`STAGES`, of ``(row index, whether its parallel text)``; every
        row stands in each list once.
    """
    rng = random.Random(seed)
    parallel: list[set[int]] = [set(range(rows)) if share == 1 else set() for share in STAGES]
    for low, high in _PAIRS:
        order = list(range(rows))
        rng.shuffle(order)
        cut = round(rows * STAGES[low])
        parallel[low], parallel[high] = set(order[:cut]), set(order[cut:])
    passes = []
    for chosen in parallel:
        order = list(range(rows))
        rng.shuffle(order)
        passes.append([(row, row in chosen) for row in order])
    return passes
