"""Multiverse attention for any Hugging Face decoder: one hook, one integer per token.

``visible(q, k) ⇔ k ≤ q and order[k] ≤ order[q]``. Beside ``input_ids`` and ``position_ids`` the
model takes ``multiverse_order`` and attends by that rule; without it the model is unchanged. The
hook sits on the backbone, where the plain and TRL's fused forward meet, so the 2-D
``attention_mask`` stays what token counts and auxiliary losses above expect. Where paths share,
``multiverse_rank`` stands in for the text order: ``visible(q, k) ⇔ rank[k] ≤ rank[q] and …``.

The mask that reaches transformers is always explicit. Left to itself with ``position_ids`` alone,
transformers takes every jump of the positions for a new document and cuts the text there.

With a dialect the hook lays texts out itself where no order is given, for trainers whose forward
has no room for one. ``docs/attention.md`` says which models, processes and calls this holds for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.logging import get_logger

from ..dialect import Dialect
from ..layout import LAYOUT_VERSION, Layout, check_share_every, layout, pack, plain
from ..structure import UNLIMITED, Limits
from .masks import block_mask, dense_mask
from .segments import Plan, plan, segment_attention

logger = get_logger(__name__)

#: Segment attention, the name that transformers knows it by once this module is imported.
SEGMENTS = "multiverse"

#: Attention that can be told what is visible: by segments, by a mask of blocks, by a dense mask.
IMPLEMENTATIONS = (SEGMENTS, "flex_attention", "sdpa", "eager")


def default_implementation(path: str | None = None) -> str:
    """What is fastest here: FlexAttention on a GPU, segments elsewhere (``benchmarks/masks.py``,
    ``docs/gpu.md``); SDPA for the model of ``path`` if its class is of those older ones that
    choose their attention by themselves."""
    if torch.cuda.is_available():
        return "flex_attention"
    try:
        config = (
            None
            if path is None
            else type(AutoConfig.from_pretrained(path, trust_remote_code=False))
        )
    except (OSError, ValueError):  # loading it will say what is wrong
        config = None
    if config not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return SEGMENTS
    return SEGMENTS if MODEL_FOR_CAUSAL_LM_MAPPING[config]._supports_attention_backend else "sdpa"


class AttentionError(ValueError):
    """A model or call that cannot attend by order; the message names the remedy."""


def enable_multiverse_attention(
    model: Any,
    dialect: Dialect | None = None,
    *,
    limits: Limits = UNLIMITED,
    share_every: int | None = None,
) -> Any:
    """Teach ``model`` (or the model under a PEFT wrapper) to take ``multiverse_order``, and
    ``multiverse_rank`` where paths share. Idempotent.

    The hook is not saved with the weights: call this after every load. A model without it swallows
    ``multiverse_order`` and attends causally.

    Args:
        dialect: where no order is given, derive order and positions from ``input_ids`` and the
            2-D ``attention_mask``, in place of any ``position_ids``. Calls with a cache are left
            alone, so that generation is unchanged. A later call without a dialect keeps it.
        limits: the bounds of the engine that wrote the texts, for that derivation.
        share_every: the tokens after which paths see one another's, for that derivation.

    Raises:
        AttentionError: the attention implementation or the layers cannot express the mask, or the
            model was trained with another ``share_every`` than what is to be derived.
    """
    check_share_every(share_every)
    base = model
    if hasattr(type(model), "get_base_model"):  # PEFT, which is not needed without it
        if model.active_peft_config.is_prompt_learning:
            raise AttentionError(
                f"{model.active_peft_config.peft_type.value} puts learned tokens before the text, "
                "of which the layout knows nothing; use LoRA or another method without them"
            )
        base = model.get_base_model()
    check_model(base)
    recorded = recorded_share_every(base.config)
    if dialect is not None and recorded not in (None, share_every):
        raise AttentionError(
            f"this checkpoint was trained with share_every={recorded}, not {share_every}; give "
            f"enable_multiverse_attention share_every={recorded}"
        )
    backbone = base.base_model
    if _is_flash(base.config.get_text_config()._attn_implementation):
        # These kernels take no mask; the same ones, piece by piece, do without.
        logger.warning_once(
            f"attn_implementation={base.config._attn_implementation!r} takes no mask of forked "
            f"paths: {type(base).__name__} attends by segments instead ({SEGMENTS!r})"
        )
        base.set_attn_implementation(SEGMENTS)
    handle = backbone.__dict__.get("_multiverse_hook")
    if handle is not None and dialect is None:
        return model
    if handle is not None:
        handle.remove()
    names = tuple(inspect.signature(backbone.forward).parameters)
    backbone.__dict__["_multiverse_hook"] = backbone.register_forward_pre_hook(
        partial(_lay_out, names=names, dialect=dialect, limits=limits, share_every=share_every),
        with_kwargs=True,
    )
    return model


def check_model(model: PreTrainedModel) -> None:
    """Raise :class:`AttentionError` unless ``model`` can attend by order.

    A sliding window is no obstacle by itself: over a text no longer than the window the layer sees
    what a full one sees. Whether that holds is checked when the text comes.
    """
    name = type(model).__name__
    config = model.config.get_text_config()
    if config is not model.config:
        raise AttentionError(
            f"{name} mixes text with other inputs, whose attention this mask would replace; load "
            "its language model alone, as AutoModelForCausalLM does for Gemma3ForCausalLM"
        )
    if not _is_flash(config._attn_implementation):
        _check_implementation(config._attn_implementation)
    if config._attn_implementation == SEGMENTS and not model._supports_attention_backend:
        raise AttentionError(
            f"{name} chooses its attention by itself, so that segments cannot reach it; load it "
            "with attn_implementation='sdpa'"
        )
    if getattr(config, "attn_logit_softcapping", None) and config._attn_implementation in (
        SEGMENTS,
        "sdpa",
    ):
        raise AttentionError(
            f"{name} caps its scores (attn_logit_softcapping), which {config._attn_implementation} "
            "leaves out without a word; load it with attn_implementation='flex_attention' (GPU) or "
            "'eager'"
        )
    unknown = set(getattr(config, "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    if unknown:
        raise AttentionError(
            f"{name} has layers without full attention ({', '.join(sorted(unknown))}), which this "
            "mask does not reach; use a model whose layers all attend fully"
        )
    if not getattr(config, "is_causal", True) or getattr(
        config, "use_bidirectional_attention", False
    ):
        raise AttentionError(f"{name} attends in both directions; use a causal language model")
    varying = {kind for kind in _rope_types(config) if "dynamic" in kind or kind == "longrope"}
    if varying:
        raise AttentionError(
            f"{name} has rotary frequencies that change with the longest text of the batch "
            f"({', '.join(sorted(varying))}), so that paths and packed texts would feel one "
            "another; set a rope_type that does not, such as 'yarn' or 'default'"
        )
    recorded = _recorded(config).get("layout", LAYOUT_VERSION)
    if recorded != LAYOUT_VERSION:
        raise AttentionError(
            f"this checkpoint was trained with layout {recorded}, this package lays out by "
            f"{LAYOUT_VERSION}; install the release that trained it"
        )


def recorded_share_every(config: PreTrainedConfig) -> int | None:
    """``share_every`` of the trained weights that ``config`` describes."""
    return _recorded(config).get("share_every")


def _recorded(config: PreTrainedConfig) -> dict[str, Any]:
    """What training wrote of the layout into ``config``; nothing for a model that never forked."""
    found = getattr(config, "multiverse", None) or {}
    if not isinstance(found, dict):
        raise AttentionError(
            f'"multiverse": {found!r} in config.json is no object such as {{"layout": '
            f"{LAYOUT_VERSION}}}; take it out if the model was not trained to fork"
        )
    return found


def _is_flash(implementation: str) -> bool:
    return "flash_attention" in implementation or "flash-attn" in implementation


def _check_implementation(implementation: str) -> None:
    # Asked at every call, too: set_attn_implementation may have changed it since.
    if implementation not in IMPLEMENTATIONS:
        raise AttentionError(
            f"attn_implementation={implementation!r} cannot express a mask of forked paths; load "
            f"the model with attn_implementation='flex_attention' (GPU) or {SEGMENTS!r}"
        )


def _rope_types(config: PreTrainedConfig) -> set[str]:
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer = [one for one in parameters.values() if isinstance(one, dict)] or [parameters]
    return {one.get("rope_type", "default") for one in by_layer}


def _window(config: PreTrainedConfig) -> int | None:
    """Tokens that the narrowest layer looks back on, itself included; None without a window."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def _longest_text(order: Tensor, attention_mask: Any) -> int:
    """Tokens of the longest text in rows that may hold several, padding not counted.

    A text begins where every order before it lies over every order from there on: nothing sees
    across that line.
    """
    before = order.cummin(-1).values[:, :-1]
    after = order.flip(-1).cummax(-1).values.flip(-1)[:, 1:]
    text = torch.nn.functional.pad((before > after).long().cumsum(-1), (1, 0))
    counted = torch.ones_like(text)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        counted = attention_mask.to(counted)
    return int(torch.zeros_like(text).scatter_add_(-1, text, counted).max())


@torch.compiler.disable
def _lay_out(
    module: PreTrainedModel,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    names: tuple[str, ...],
    dialect: Dialect | None,
    limits: Limits,
    share_every: int | None,
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The hook: put mask and positions of the layout in place before the backbone runs."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    order = given.pop("multiverse_order", None)
    rank = given.pop("multiverse_rank", None)
    cached = given.get("past_key_values") is not None
    if order is None:
        if rank is not None:
            raise AttentionError("multiverse_rank needs multiverse_order of the same layout")
        if dialect is None or cached or given.get("use_cache"):
            return args, {k: v for k, v in kwargs.items() if not k.startswith("multiverse_")}
        order, rank = _derive(
            given, partial(layout, dialect=dialect, limits=limits, share_every=share_every)
        )
    elif cached:
        raise AttentionError("multiverse_order covers whole texts; call without past_key_values")
    elif given.get("position_ids") is None:
        raise AttentionError("multiverse_order needs position_ids of the same layout beside it")
    elif rank is None and (every := recorded_share_every(module.config)) is not None:
        raise AttentionError(
            f"this model was trained with share_every={every}: lay texts out with it, and give "
            "multiverse_rank beside multiverse_order (text order where a layout has none)"
        )
    check_call(module, order, rank, given)
    if module.config.get_text_config()._attn_implementation == SEGMENTS:
        given["multiverse_plan"] = plan(order, rank)
        given["attention_mask"] = order.new_empty((1, 1, 0, 0), dtype=torch.bool)
    else:
        given["attention_mask"] = _mask(module, order, rank)
    return (), given


def check_call(
    module: PreTrainedModel, order: Tensor, rank: Tensor | None, given: Mapping[str, Any]
) -> None:
    """Raise :class:`AttentionError` unless this text can be attended to by this order."""
    config = module.config.get_text_config()
    _check_implementation(config._attn_implementation)
    tokens = given.get("input_ids")
    shape = tokens.shape if tokens is not None else given["inputs_embeds"].shape[:2]
    if order.shape != shape:
        raise AttentionError(
            f"multiverse_order has shape {tuple(order.shape)}, the text {tuple(shape)}; give one "
            "order for every token, padding included"
        )
    if rank is not None and rank.shape != shape:
        raise AttentionError(
            f"multiverse_rank has shape {tuple(rank.shape)}, the text {tuple(shape)}; give one "
            "rank for every token, padding included"
        )
    window = _window(config)
    if window is not None and shape[-1] > window:
        longest = _longest_text(order, given.get("attention_mask"))
        if longest > window:
            raise AttentionError(
                f"a text of {longest} tokens is longer than the model's sliding window of {window} "
                "tokens, which this mask would lift; shorten the texts (max_length) or use a model "
                "whose layers all attend fully"
            )


def _mask(module: PreTrainedModel, order: Tensor, rank: Tensor | None) -> Tensor | BlockMask:
    implementation = module.config.get_text_config()._attn_implementation
    if implementation == "flex_attention":
        if order.device.type == "cpu" and torch.is_grad_enabled():
            raise AttentionError(
                "FlexAttention has no backward pass on CPU; load with attn_implementation="
                f"{SEGMENTS!r} or 'sdpa'"
            )
        return block_mask(order, rank)
    mask = dense_mask(order, rank)
    if implementation == "sdpa":
        return mask
    # Eager attention adds the mask to the scores, where SDPA selects by it.
    dtype = module.dtype
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


@torch.compiler.disable
def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    multiverse_plan: Plan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Segment attention as transformers calls it; SDPA where no text was laid out."""
    if multiverse_plan is None:
        if attention_mask is not None and not attention_mask.numel():
            raise AttentionError(
                f"{type(module).__name__} does not hand on what the backbone is called with, so "
                "that segments cannot reach it; load the model with attn_implementation='sdpa'"
            )
        attended: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended
    if dropout:
        raise AttentionError(
            f"segment attention drops no weights, and attention_dropout is {dropout}; set it to 0 "
            "in the model's config, or load with attn_implementation='sdpa'"
        )
    changed = [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]
    if changed:
        raise AttentionError(
            f"{type(module).__name__} changes its scores ({', '.join(changed)}), which segment "
            "attention does not; load the model with attn_implementation='eager'"
        )
    try:
        out = segment_attention(query, key, value, multiverse_plan, scaling)
    except NotImplementedError as error:
        raise AttentionError(str(error)) from error
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(SEGMENTS, _attend)
# Of plain calls, such as generation with a cache.
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)


def _derive(
    given: dict[str, Any], lay_out: Callable[[npt.NDArray[np.int64]], Layout]
) -> tuple[Tensor, Tensor | None]:
    """Order and rank of ``input_ids``, which are returned; positions are put into ``given``."""
    tokens = given.get("input_ids")
    if tokens is None:
        raise AttentionError(
            "the layout is read from input_ids; with inputs_embeds give multiverse_order and "
            "position_ids"
        )
    real = given.get("attention_mask")
    if real is None:
        real = torch.ones_like(tokens)
    elif not isinstance(real, Tensor) or real.ndim != 2:
        raise AttentionError(
            "the layout is the mask: give the 2-D attention_mask of padding, or multiverse_order"
        )
    rows = [
        _row(ids, kept, row, lay_out)
        for row, (ids, kept) in enumerate(
            zip(tokens.cpu().numpy(), real.cpu().numpy() != 0, strict=True)
        )
    ]
    place = {"device": tokens.device}
    given["position_ids"] = torch.from_numpy(np.stack([row.position for row in rows])).to(**place)
    given["use_cache"] = False  # a cache of forked text could not be continued
    order = np.stack([row.order for row in rows])
    rank = None
    if any(row.rank is not None for row in rows):
        rank = torch.from_numpy(np.stack([row.ranks for row in rows])).to(
            dtype=torch.int32, **place
        )
    return torch.from_numpy(order).to(dtype=torch.int32, **place), rank


def _row(
    ids: npt.NDArray[np.int64],
    kept: npt.NDArray[np.bool_],
    row: int,
    lay_out: Callable[[npt.NDArray[np.int64]], Layout],
) -> Layout:
    """The layout of one row: a text between padding, which is two more texts."""
    at = np.flatnonzero(kept)
    if not len(at):
        return plain(len(ids))
    start, end = int(at[0]), int(at[-1]) + 1
    if len(at) != end - start:
        hole = start + int(np.flatnonzero(~kept[start:end])[0])
        raise AttentionError(
            f"attention_mask of row {row} leaves out token {hole} inside the text; only padding "
            "before and after a text can be left out"
        )
    return pack([plain(start), lay_out(ids[start:end]), plain(len(ids) - end)])
