"""Slow, plain definitions of visibility, position and order, over addresses of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sglang_multiverse.layout import Layout
from sglang_multiverse.structure import Trace

Address = tuple[tuple[int, int], ...]
Bools = npt.NDArray[np.bool_]


def apart(a: Address, b: Address) -> bool:
    """Whether two tokens stand in different paths of one block."""
    mine = dict(a)
    return any(block in mine and mine[block] != path for block, path in b)


def visible(addresses: Sequence[Address]) -> Bools:
    """``[q, k]``: k does not follow q, and no block has them in different paths."""
    n = len(addresses)
    seen = np.zeros((n, n), dtype=bool)
    for q in range(n):
        for k in range(q + 1):
            seen[q, k] = not apart(addresses[q], addresses[k])
    return seen


def heights(seen: Bools) -> list[int]:
    """Longest chain of tokens before each token, each visible to the next, the last to it."""
    height: list[int] = []
    for t in range(len(seen)):
        height.append(max((height[k] + 1 for k in range(t) if seen[t, k]), default=0))
    return height


def shared(addresses: Sequence[Address], every: int) -> Bools:
    """``visible`` where tokens of different paths also see what stands in earlier chunks: a token's
    chunk counts ``every`` tokens at a time along the longest chain of its path of the outermost
    block."""
    seen = visible(addresses)
    n = len(addresses)
    count = [0] * n
    for t in range(n):
        for k in range(t):
            if addresses[t] and addresses[k][:1] == addresses[t][:1] and seen[t, k]:
                count[t] = max(count[t], count[k] + 1)
    apart_by_chunk = seen.copy()
    for q in range(n):
        for k in range(n):
            if apart(addresses[q], addresses[k]) and count[k] // every < count[q] // every:
                apart_by_chunk[q, k] = True
    return apart_by_chunk


def chains(seen: Bools) -> list[int]:
    """``heights`` of a relation in any order: who sees fewer tokens stands before who sees more."""
    height = [0] * len(seen)
    for t in sorted(range(len(seen)), key=lambda t: int(seen[t].sum())):
        height[t] = max((height[k] + 1 for k in np.flatnonzero(seen[t]) if k != t), default=0)
    return height


def addresses_of(trace: Trace) -> list[Address]:
    """The address of every token, by asking every path of the tree whether it holds the token."""
    addresses: list[Address] = []
    blocks = list(trace.walk())
    for t in range(trace.length):
        found = [
            (depth, (id(block), i))
            for block, depth in blocks
            for i, path in enumerate(block.paths)
            if path.start <= t < path.end
        ]
        addresses.append(tuple(step for _, step in sorted(found)))
    return addresses


def order_by_formula(trace: Trace) -> list[int]:
    """``t`` plus ``rs + re - ps - pe`` over the paths ``[ps, pe)`` of regions ``[rs, re)``."""
    order = []
    for t in range(trace.length):
        shift = 0
        for block, _ in trace.walk():
            rs, re = block.paths[0].start, block.paths[-1].end
            shift += sum(rs + re - p.start - p.end for p in block.paths if p.start <= t < p.end)
        order.append(t + shift)
    return order


def from_order(order: npt.NDArray[np.int64]) -> Bools:
    """The mask that an ``order`` array stands for."""
    index = np.arange(len(order))
    return (index[None, :] <= index[:, None]) & (order[None, :] <= order[:, None])


def from_layout(laid: Layout) -> Bools:
    """The mask that a layout stands for."""
    rank = laid.ranks
    return (rank[None, :] <= rank[:, None]) & (laid.order[None, :] <= laid.order[:, None])


def transitive(seen: Bools) -> bool:
    """What a token sees through a token it sees, it sees itself."""
    through = seen.astype(np.int64) @ seen.astype(np.int64) > 0
    return bool((~through | seen).all())
