"""Random weights of a size whose forward pass costs what one costs, made once and kept.

The text is decided by a script (:mod:`.scripted`), so the weights need to be right in size alone.
The tokenizer is the tiny model's, with the twelve tags.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..layout import LAYOUT_VERSION
from ..tiny import MODEL_DIR

#: Where weights are kept unless ``--cache`` or this variable says otherwise.
CACHE_VARIABLE = "SGLANG_MULTIVERSE_CACHE"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_CONTEXT = 65_536


@dataclass(frozen=True)
class Size:
    """Shape of a Qwen2 network with heads of width 64 and tied embeddings."""

    name: str
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int


#: 78 M parameters, 312 MB in float32, 18 KiB of KV a token.
SPEED = Size("speed", layers=9, width=768, hidden=3072, heads=12, kv_heads=4)
#: 0.1 M parameters: for counts, where a step may cost nothing.
COUNT = Size("count", layers=1, width=128, hidden=128, heads=2, kv_heads=1)


def default_cache() -> Path:
    """``$SGLANG_MULTIVERSE_CACHE``, else ``sglang-multiverse`` in the user's cache folder."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sglang-multiverse"


def random_weights(size: Size, cache: Path, *, seed: int = 0) -> Path:
    """The folder of a checkpoint of ``size``; made on the first call, then found again.

    Raises:
        OSError: ``cache`` cannot be written.
    """
    folder = cache / f"random-{size.name}-{size.layers}x{size.width}x{size.hidden}-seed{seed}"
    if (folder / "config.json").is_file():
        return folder
    making = folder.with_name(f"{folder.name}.{os.getpid()}")
    making.mkdir(parents=True)
    try:
        _write(size, making, seed)
        try:
            making.rename(folder)
        except OSError:  # another process was faster
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _write(size: Size, folder: Path, seed: int) -> None:
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    config = Qwen2Config(
        vocab_size=448,
        hidden_size=size.width,
        intermediate_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    config.multiverse = {"layout": LAYOUT_VERSION}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    for name in _TOKENIZER_FILES:
        shutil.copy(MODEL_DIR / name, folder / name)


def parameters(folder: Path) -> int:
    """Parameters of the checkpoint in ``folder``, tied ones counted once."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
