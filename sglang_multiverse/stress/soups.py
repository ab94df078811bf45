"""Random grammars: what a model that knows no order of tags would emit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ..dialect import Dialect, Tag


def random_soup(
    rng: random.Random, dialect: Dialect, words: Sequence[int], eos: int
) -> dict[str, Any]:
    """Parameters of a stream that :func:`~.scripted.soup_token` emits: with or without separators
    and labels, goals of no to five outlines, closers and other tags rare or frequent."""
    label: list[int] = []
    ordinal = rng.choice((None, 0, 4))
    if ordinal is not None:
        label = [*dialect.ordinal(ordinal), dialect.colon]
    gap = list(rng.choice((dialect.separator, ())))
    opening = [dialect[Tag.PARALLEL], *gap, dialect[Tag.GOAL], *gap]
    for _ in range(rng.choice((0, 1, 2, 2, 3, 5))):
        opening += [dialect[Tag.OUTLINE], *gap, *label, rng.choice(words)]
        opening += [dialect[Tag.END_OUTLINE], *gap]
    opening += [dialect[Tag.END_GOAL]]
    low = rng.uniform(0.05, 0.5)
    middle = rng.uniform(low, 0.9)
    return {
        "soup": rng.randrange(10**9),
        "opening": opening,
        "window": len(opening) + 3,
        "tags": rng.sample(dialect.tag_ids, rng.randint(3, len(dialect.tag_ids))),
        "closers": rng.choice((2, 6)) * [dialect[Tag.END_PATH]] + [dialect[Tag.END_CONCLUSION]],
        "words": list(words),
        "eos": eos,
        "shares": [low, middle, rng.uniform(middle, 0.98)],
    }
