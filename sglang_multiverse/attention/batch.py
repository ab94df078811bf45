"""What a forward batch says of the structure of its rows.

``multiverse_extends`` and ``multiverse_siblings`` are set on a ``ForwardBatch`` by the plugin,
which knows the texts; a batch without them, or with None, is plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .plan import Extend


@dataclass(frozen=True)
class Siblings:
    """What the rows of a decode batch have in common.

    Attributes:
        groups: the group of each row, ``cascade_plan.ALONE`` for none.
        shared: tokens at the head of the row's page table that are the same slots throughout its
            group.
    """

    groups: Sequence[int]
    shared: Sequence[int]


def extends_of(forward_batch: Any) -> Sequence[Extend] | None:
    """The rows of a structured extend, None for a plain batch and in decode."""
    extends: Sequence[Extend] | None = getattr(forward_batch, "multiverse_extends", None)
    if extends is None or not forward_batch.forward_mode.is_extend():
        return None
    return extends if any(extend.segments is not None for extend in extends) else None


def siblings_of(forward_batch: Any) -> Siblings | None:
    """The siblings of a decode batch, None where none are named and outside decode."""
    siblings: Siblings | None = getattr(forward_batch, "multiverse_siblings", None)
    return siblings if forward_batch.forward_mode.is_decode() else None


def check_rows(extends: Sequence[Extend], forward_batch: Any) -> None:
    """That every row of the batch is the extend it is said to be.

    Raises:
        ValueError: naming the first row that is not.
    """
    prefixes, lengths = forward_batch.extend_prefix_lens_cpu, forward_batch.extend_seq_lens_cpu
    if len(extends) != len(prefixes):
        raise ValueError(
            f"{len(extends)} structured extends for {len(prefixes)} rows: "
            "multiverse_extends must name every row of the batch"
        )
    for row, (extend, prefix, length) in enumerate(zip(extends, prefixes, lengths, strict=True)):
        if (extend.prefix_len, extend.end) != (prefix, prefix + length):
            raise ValueError(
                f"row {row} extends tokens [{prefix}, {prefix + length}), and its structure is "
                f"said to be that of [{extend.prefix_len}, {extend.end})"
            )


__all__ = ["Siblings", "check_rows", "extends_of", "siblings_of"]
