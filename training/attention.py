"""Multiverse attention for any Hugging Face decoder: one hook, one integer per token.

``visible(q, k) ⇔ k ≤ q and order[k] ≤ order[q]``. Beside ``input_ids`` and ``position_ids`` the
model takes ``multiverse_order`` and attends by that rule; without it the model is unchanged. The
hook sits on the backbone, where the plain and TRL's fused forward meet, so the 2-D
``attention_mask`` stays what token counts and auxiliary losses above expect.

The mask that reaches transformers is always explicit. Left to itself with ``position_ids`` alone,
transformers takes every jump of the positions for a new document and cuts the text there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel

from ..layout import LAYOUT_VERSION

BLOCK = 128


class AttentionError(ValueError):
    """A model or call that cannot attend by order; the message names the remedy."""


def dense_mask(order: Tensor) -> Tensor:
    """The rule itself, for SDPA: integers of shape ``(batch, length)`` → booleans of shape
    ``(batch, 1, length, length)``, True where the query (third axis) sees the key (fourth)."""
    length = order.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=order.device).tril()
    return (causal & (order[:, None, :] <= order[:, :, None])).unsqueeze(1)


def block_mask(order: Tensor) -> BlockMask:
    """The rule for FlexAttention, from the least and greatest order of each block of 128 tokens.

    A block of keys before a block of queries is wholly visible where the queries' least order
    reaches the keys' greatest, hidden where their greatest falls short of the keys' least, and
    left to the rule otherwise. Memory O(length + (length / 128)²).

    Args:
        order: shape ``(batch, length)``.
    """
    batch, length = order.shape
    blocks = -(-length // BLOCK)
    short = blocks * BLOCK - length
    bounds = torch.iinfo(order.dtype)
    low = torch.nn.functional.pad(order, (0, short), value=bounds.max)
    high = torch.nn.functional.pad(order, (0, short), value=bounds.min)
    least = low.view(batch, blocks, BLOCK).amin(-1)
    greatest = high.view(batch, blocks, BLOCK).amax(-1)
    index = torch.arange(blocks, device=order.device)
    before = index[None, :] < index[:, None]
    full = before & (least[:, :, None] >= greatest[:, None, :])
    some = before & (greatest[:, :, None] >= least[:, None, :]) & ~full
    some |= index[None, :] == index[:, None]

    def visible(b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (high[b, k] <= high[b, q])

    def listed(which: Tensor) -> tuple[Tensor, Tensor]:
        """Counts ``(batch, 1, blocks)`` and the listed key blocks first, in rising order."""
        counts = which.sum(-1, dtype=torch.int32)
        rank = which.to(torch.int32).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
        return counts.unsqueeze(1), rank.unsqueeze(1)

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


def enable_multiverse_attention(model: Any) -> Any:
    """Teach ``model`` (or the model under a PEFT wrapper) to take ``multiverse_order``. Idempotent.

    The hook is not saved with the weights: call this after every load.

    Raises:
        AttentionError: the attention implementation or the layers cannot express the mask.
    """
    base = model.get_base_model() if _is_peft(model) else model
    backbone = base.base_model
    check_model(base)
    if "_multiverse_hook" not in backbone.__dict__:
        handle = backbone.register_forward_pre_hook(_replace_mask, with_kwargs=True)
        backbone.__dict__["_multiverse_hook"] = handle
    return model


def check_model(model: PreTrainedModel) -> None:
    """Raise :class:`AttentionError` unless ``model`` can attend by order."""
    config = model.config.get_text_config()
    implementation = config._attn_implementation
    if implementation not in ("sdpa", "eager", "flex_attention"):
        raise AttentionError(
            f"attn_implementation={implementation!r} cannot express a mask of forked paths; load "
            "the model with attn_implementation='flex_attention' (GPU) or 'sdpa'"
        )
    kinds = set(getattr(config, "layer_types", None) or ())
    windowed = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", not kinds
    )
    if kinds - {"full_attention"} or windowed:
        found = ", ".join(sorted(kinds - {"full_attention"})) or "sliding_window"
        raise AttentionError(
            f"{type(model).__name__} has layers without full attention ({found}), which would lose "
            "their window under this mask; use a model whose layers all attend fully"
        )
    recorded = (getattr(config, "multiverse", None) or {}).get("layout", LAYOUT_VERSION)
    if recorded != LAYOUT_VERSION:
        raise AttentionError(
            f"this checkpoint was trained with layout {recorded}, this package lays out by "
            f"{LAYOUT_VERSION}; install the release that trained it"
        )


def _is_peft(model: Any) -> bool:
    return hasattr(type(model), "get_base_model")


@torch.compiler.disable
def _replace_mask(
    module: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    order = kwargs.pop("multiverse_order", None)
    if order is None:
        return args, kwargs
    if kwargs.get("position_ids") is None:
        raise AttentionError("multiverse_order needs position_ids of the same layout beside it")
    if kwargs.get("past_key_values") is not None:
        raise AttentionError("multiverse_order covers whole texts; call without past_key_values")
    implementation = module.config.get_text_config()._attn_implementation
    if implementation == "flex_attention":
        if order.device.type == "cpu" and torch.is_grad_enabled():
            raise AttentionError(
                "FlexAttention has no backward pass on CPU; load with attn_implementation='sdpa'"
            )
        kwargs["attention_mask"] = block_mask(order)
    else:
        mask = dense_mask(order)
        if implementation == "eager":  # added to the scores, where SDPA selects by it
            dtype = module.dtype
            hidden = torch.finfo(dtype).min
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, hidden)
        kwargs["attention_mask"] = mask
    return args, kwargs
