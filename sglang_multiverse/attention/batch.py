"""What a forward batch says of the structure of its rows.

``multiverse_extends`` is set on a ``ForwardBatch`` by the plugin, which alone knows the texts; a
batch without it, or with None, is plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .plan import Extend


def extends_of(forward_batch: Any) -> Sequence[Extend] | None:
    """The rows of a structured extend, None for a plain batch and in decode."""
    extends: Sequence[Extend] | None = getattr(forward_batch, "multiverse_extends", None)
    if extends is None or not forward_batch.forward_mode.is_extend():
        return None
    return extends if any(extend.segments is not None for extend in extends) else None


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
