"""The mask of a layout, from its integers: dense for SDPA, in blocks for FlexAttention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128


def dense_mask(order: Tensor, rank: Tensor | None = None) -> Tensor:
    """The rule itself, for SDPA: integers of shape ``(batch, length)`` → booleans of shape
    ``(batch, 1, length, length)``, True where the query (third axis) sees the key (fourth).

    Args:
        rank: of the layout, where paths share; None is text order.
    """
    seen = order[:, None, :] <= order[:, :, None]
    if rank is None:
        seen = seen.tril_()
    else:
        seen &= rank[:, None, :] <= rank[:, :, None]
    return seen.unsqueeze(1)


def block_mask(order: Tensor, rank: Tensor | None = None) -> BlockMask:
    """The rule for FlexAttention, from the least and greatest order of each block of 128 tokens.

    A block of keys before a block of queries is wholly visible where the queries' least order
    reaches the keys' greatest, hidden where their greatest falls short of the keys' least, and
    left to the rule otherwise. With ``rank``, its bounds say what comes before, and a key block may
    stand behind its queries; a block that is left to the rule may then turn out to be hidden.
    Memory O(length + (length / 128)²).

    Args:
        order: shape ``(batch, length)``.
        rank: of the layout, where paths share, same shape; None is text order.
    """
    batch, length = order.shape
    blocks = -(-length // BLOCK)
    short = blocks * BLOCK - length

    def padded(values: Tensor) -> tuple[Tensor, Tensor]:
        """``values`` to whole blocks with the lowest and with the highest number."""
        limits = torch.iinfo(values.dtype)
        ends = (values.new_full((batch, short), end) for end in (limits.min, limits.max))
        low, high = (torch.cat([values, end], dim=1) for end in ends)
        return low, high

    def bounds(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest of each block, padding not counted, ``(batch, blocks)``."""
        return high.view(batch, blocks, BLOCK).amin(-1), low.view(batch, blocks, BLOCK).amax(-1)

    index = torch.arange(blocks, device=order.device)
    low, high = padded(order)
    least, greatest = bounds(low, high)
    full = least[:, :, None] >= greatest[:, None, :]
    some = greatest[:, :, None] >= least[:, None, :]
    if rank is None:
        full &= index[None, :] < index[:, None]
        some &= index[None, :] <= index[:, None]

        def visible(b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (low[b, k] <= low[b, q])

    else:
        early, late = padded(rank)
        first, last = bounds(early, late)
        full &= first[:, :, None] >= last[:, None, :]
        some &= last[:, :, None] >= first[:, None, :]
        if short:
            full[:, :, -1] = False  # a block with padding is left to the rule

        def visible(b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (late[b, k] <= late[b, q]) & (low[b, k] <= low[b, q])

    some &= ~full

    def listed(which: Tensor) -> tuple[Tensor, Tensor]:
        """Counts ``(batch, 1, blocks)`` and the listed key blocks first, in rising order."""
        counts = which.sum(-1, dtype=torch.int32)
        listing = which.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
        return counts.unsqueeze(1), listing.to(torch.int32).unsqueeze(1)

    partial_counts, partial_blocks = listed(some)
    full_counts, full_blocks = listed(full)
    return BlockMask.from_kv_blocks(
        partial_counts,
        partial_blocks,
        full_counts,
        full_blocks,
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )
