"""What only a run can tell, tried without weights: the first batch, and attention in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..attention import AttentionError
from .checks import collated, extremes, plain_model, prepared


def try_batch(trainer: Any) -> None:
    """Read the first batch as training would: sampled, collated, on its device."""
    next(iter(trainer.get_train_dataloader()))


def try_attention(trainer: Any) -> str | None:
    """Call the attention of the first layer as the model itself calls it, on zeros.

    The layers are on the ``meta`` device; what they hand to attention is made real in shape and
    kind, forward and backward, on the device that trains.

    Returns:
        None, or why this model's attention could not be reached.

    Raises:
        AttentionError: attention refuses what the layers hand it.
    """
    model = plain_model(trainer)
    name = model.config.get_text_config()._attn_implementation
    _, dataset = next(prepared(trainer), (None, None))
    if name == "eager" or dataset is None:
        return None  # eager attention is the layers' own, and refuses nothing
    batch = collated(trainer, dataset, extremes(dataset)[1])
    given = {key: x for key, x in batch.items() if key != "labels"}
    for key in ("input_ids", "position_ids"):  # the layers' own; hooks read the order
        given[key] = given[key].to("meta")
    model.train()
    try:
        with _standing_in(name, _on_zeros(trainer.args)):
            model.base_model(**given)
    except _Reached:
        return None
    except AttentionError:
        raise
    except Exception as error:  # a layer that does not run without weights
        return f"attention was not tried: {type(model).__name__} {str(error)[:120]}"
    return f"attention was not tried: {type(model).__name__} does not call {name!r}"


class _Reached(Exception):
    """Attention was called, and took it."""


def _on_zeros(args: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None

    def real(x: Any, wide: bool = True) -> Any:
        if not isinstance(x, Tensor) or not x.is_meta:
            return x
        return torch.zeros(x.shape, dtype=(half if wide else None) or x.dtype, device=args.device)

    def around(attend: Callable[..., Any]) -> Callable[..., Any]:
        def once(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
            tensors = [real(x).requires_grad_() for x in (query, key, value)]
            settings = {name: real(x) for name, x in more.items()}
            out, *_ = attend(module, *tensors, mask, **settings)
            out.float().sum().backward()
            raise _Reached

        return once

    return around


@contextmanager
def _standing_in(name: str, around: Callable[[Any], Any]) -> Iterator[None]:
    attend = ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS[name] = around(attend)
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
