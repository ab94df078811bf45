"""What people make of a corpus, and how far they agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from ..analyses.agreement import kappa
from ..analyses.intervals import wilson
from .blocks import QUESTIONS
from .files import Review


def summarise(reviews: Sequence[Review]) -> dict[str, Any]:
    """Blocks, what was said of them by question, and agreement by pair of reviewers, as one JSON
    object. A block is well if more of its reviewers say so than do not; a tie counts against it.
    """
    return {
        "blocks": len({one.key for one in reviews}),
        "reviewers": sorted({one.reviewer for one in reviews if one.answers}),
        "questions": {name: _question(reviews, name) for name in QUESTIONS},
        "comments": [
            {"item": one.item, "block": one.block, "reviewer": one.reviewer, "comment": one.comment}
            for one in reviews
            if one.comment
        ],
    }


def doubted(reviews: Sequence[Review]) -> set[str]:
    """The items with a block that is not well by one of the questions, see :func:`summarise`."""
    blocks = (_question(reviews, name)["doubted"] for name in QUESTIONS)
    return {block.rpartition("#")[0] for some in blocks for block in some}


def _question(reviews: Sequence[Review], name: str) -> dict[str, Any]:
    said: dict[tuple[str, int], dict[str, bool]] = defaultdict(dict)
    for one in reviews:
        if name in one.answers:
            said[one.key][one.reviewer] = one.answers[name]
    votes = [sum(1 if yes else -1 for yes in one.values()) for one in said.values()]
    well = sum(vote > 0 for vote in votes)
    people = sorted({person for one in said.values() for person in one})
    return {
        "judged": len(said),
        "ties": sum(vote == 0 for vote in votes),
        "well": well,
        "share": well / len(said) if said else None,
        "interval": wilson(well, len(said)),
        "doubted": sorted(
            f"{item}#{block}" for (item, block), vote in zip(said, votes, strict=True) if vote <= 0
        ),
        "agreement": [_pair(list(said.values()), *pair) for pair in combinations(people, 2)],
    }


def _pair(said: Sequence[dict[str, bool]], first: str, second: str) -> dict[str, Any]:
    both = [(one[first], one[second]) for one in said if first in one and second in one]
    return {
        "reviewers": [first, second],
        "blocks": len(both),
        "same": sum(a == b for a, b in both),
        "kappa": kappa([(str(a), str(b)) for a, b in both]),
    }
