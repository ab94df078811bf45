"""Where lanes stand: the row of each, so that paths that run side by side stand below one another.

Blocks of one sequence follow one another, so they share rows. ``render.js`` computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .lanes import Timeline


@dataclass(frozen=True)
class Rows:
    """Row of each path from the top, the trunk's is 0, and how many rows it and its paths fill."""

    row: Mapping[str, int]
    height: Mapping[str, int]


def rows(timeline: Timeline) -> Rows:
    """A lane stands under its parent and above what forks inside it."""
    height: dict[str, int] = {}
    for lane in reversed(timeline.lanes):
        inside = (sum(height[one.path] for one in fork.lanes) for fork in lane.forks)
        height[lane.path] = 1 + max(inside, default=0)
    row = {"": 0}
    for lane in timeline.lanes:
        for fork in lane.forks:
            at = row[lane.path] + 1
            for one in fork.lanes:
                row[one.path] = at
                at += height[one.path]
    return Rows(row, height)


#: Colours of paths, by the number of the path and how deep it is; ``style.css`` has as many.
COLOURS = 8


def colour(index: int, depth: int) -> int:
    """The colour of the ``index``-th path of a block at ``depth``: unlike its parent's."""
    return (index + 3 * (depth - 1)) % COLOURS


__all__ = ["COLOURS", "Rows", "colour", "rows"]
