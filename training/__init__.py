"""Training on forked and joined text: attention seam, collator and trainer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .attention import AttentionError, block_mask, dense_mask, enable_multiverse_attention

if TYPE_CHECKING:
    from .grpo.rollout import MultiverseRollout
    from .grpo.trainer import MultiverseGRPOTrainer
    from .trainer import MultiverseSFTConfig, MultiverseSFTTrainer

__all__ = [
    "AttentionError",
    "MultiverseGRPOTrainer",
    "MultiverseRollout",
    "MultiverseSFTConfig",
    "MultiverseSFTTrainer",
    "block_mask",
    "dense_mask",
    "enable_multiverse_attention",
]


#: What needs TRL, which is imported only by those who train, and where it stands.
_LAZY = {
    "MultiverseGRPOTrainer": "grpo.trainer",
    "MultiverseRollout": "grpo.rollout",
    "MultiverseSFTConfig": "trainer",
    "MultiverseSFTTrainer": "trainer",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
