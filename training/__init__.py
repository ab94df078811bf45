"""Training on forked and joined text: attention seam, collator and trainer."""

from typing import TYPE_CHECKING, Any

from .attention import AttentionError, block_mask, dense_mask, enable_multiverse_attention

if TYPE_CHECKING:
    from .trainer import MultiverseSFTConfig, MultiverseSFTTrainer

__all__ = [
    "AttentionError",
    "MultiverseSFTConfig",
    "MultiverseSFTTrainer",
    "block_mask",
    "dense_mask",
    "enable_multiverse_attention",
]


def __getattr__(name: str) -> Any:
    """TRL is imported only by those who train."""
    if name in ("MultiverseSFTConfig", "MultiverseSFTTrainer"):
        from . import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
