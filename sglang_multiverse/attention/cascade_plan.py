"""Shared-prefix decode in two levels: paths of one fork read their common prefix once per step.

Level 0 has one row per group of siblings, over the shared prefix; level 1 has one row per token
decoded, over what is its own. Rows without siblings stand behind all groups and have level 1 alone,
over their whole KV: no kernel sees an empty row. What the two levels of a grouped row found is
merged by log-sum-exp. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .plan import IntArray

#: Group id of a row without siblings.
ALONE = -1

#: Bytes of KV that a step must spare in each layer for two levels to pay. Such a step runs without
#: a CUDA graph. On an H100 (40 query heads, 8 KV heads of 128, bf16: 4 KiB a token and layer) it
#: took at least 0.31 ms a layer, which the host needs to launch it, and was slower than stock's
#: graph at 458,752 tokens spared (0.92x), faster at 917,504 (1.37x, 1.42x): docs/gpu.md.
CASCADE_BYTES = 2 << 30


@dataclass(frozen=True)
class CascadePlan:
    """Two levels over the rows of a decode batch.

    Attributes:
        order: rows of the batch by group, rows without siblings last, shape ``(rows,)``. Queries
            are taken in this order, and answers put back by it.
        grouped: how many rows of ``order`` have siblings: level 0 covers ``order[:grouped]``.
        group_indptr: rows of group ``g`` are ``order[group_indptr[g]:group_indptr[g + 1]]``; the
            ``qo_indptr`` of level 0, shape ``(groups + 1,)``.
        prefix_row: a row of the batch whose page table holds the prefix of each group,
            shape ``(groups,)``.
        prefix_len: tokens of level 0, shape ``(groups,)``.
        own_start: first token of level 1 of each row of ``order``, shape ``(rows,)``.
        own_len: tokens of level 1 likewise, at least 1.
    """

    order: IntArray
    grouped: int
    group_indptr: IntArray
    prefix_row: IntArray
    prefix_len: IntArray
    own_start: IntArray
    own_len: IntArray


def cascade_plan(
    groups: Sequence[int] | npt.NDArray[np.integer],
    shared: Sequence[int] | npt.NDArray[np.integer],
    lengths: Sequence[int] | npt.NDArray[np.integer],
) -> CascadePlan:
    """Two levels for a decode batch. O(rows log rows).

    Args:
        groups: the group of each row, :data:`ALONE` for none; a group of one counts as none.
        shared: tokens at the head of the row's page table that its whole group has.
        lengths: KV tokens of each row, the one decoded now among them.

    Raises:
        ValueError: where rows of a group differ in their shared prefix, or it leaves a row no token
            of its own.
    """
    group, head, length = (np.asarray(x, dtype=np.int64) for x in (groups, shared, lengths))
    if not group.shape == head.shape == length.shape:
        raise ValueError(
            f"{len(group)} groups, {len(head)} shared prefixes and {len(length)} lengths for the "
            "rows of one decode batch: give one of each per row"
        )
    with_siblings = _with_siblings(group, head)
    wrong = np.flatnonzero(with_siblings & (head >= length))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"row {row}: {head[row]} tokens of its {length[row]} are shared; the token decoded now "
            "belongs to the row alone, so at most all but one can be"
        )
    by_group = np.where(with_siblings, group, np.iinfo(np.int64).max)
    order = np.argsort(by_group, kind="stable")
    grouped = int(with_siblings.sum())
    sorted_groups = group[order[:grouped]]
    first = np.flatnonzero(np.diff(sorted_groups, prepend=ALONE) != 0)
    if np.any(head[order[:grouped]] != np.repeat(head[order[first]], np.diff([*first, grouped]))):
        raise ValueError("rows of one group differ in the length of their shared prefix")
    own_start = np.where(with_siblings, head, 0)[order]
    return CascadePlan(
        order=order.astype(np.int32),
        grouped=grouped,
        group_indptr=np.array([*first, grouped], dtype=np.int32),
        prefix_row=order[first].astype(np.int32),
        prefix_len=head[order[first]].astype(np.int32),
        own_start=own_start.astype(np.int32),
        own_len=(length[order] - own_start).astype(np.int32),
    )


def cascade_pays(
    groups: Sequence[int] | npt.NDArray[np.integer],
    shared: Sequence[int] | npt.NDArray[np.integer],
    bytes_per_token: int,
    *,
    spared: int = CASCADE_BYTES,
) -> bool:
    """Whether a step spares more than ``spared`` bytes of KV in a layer: a prefix of P tokens that
    N siblings share is read once, not N times.

    Args:
        bytes_per_token: of one token's K and V, in one layer of one rank.
    """
    return tokens_spared(groups, shared) * bytes_per_token > spared


def tokens_spared(
    groups: Sequence[int] | npt.NDArray[np.integer],
    shared: Sequence[int] | npt.NDArray[np.integer],
) -> int:
    """KV tokens that a step reads less by the second level: the sum of (N - 1) P over groups."""
    group, head = (np.asarray(x, dtype=np.int64) for x in (groups, shared))
    member = group != ALONE
    _, first = np.unique(group[member], return_index=True)
    return int(head[member].sum() - head[member][first].sum())


def _with_siblings(
    group: npt.NDArray[np.int64], head: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Rows in a group of two or more that have a prefix to share."""
    _, inverse, count = np.unique(group, return_inverse=True, return_counts=True)
    siblings: npt.NDArray[np.bool_] = (group != ALONE) & (count[inverse] > 1) & (head > 0)
    return siblings


__all__ = [
    "ALONE",
    "CASCADE_BYTES",
    "CascadePlan",
    "cascade_pays",
    "cascade_plan",
    "tokens_spared",
]
