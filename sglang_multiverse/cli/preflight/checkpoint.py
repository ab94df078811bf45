"""Whether a folder holds a checkpoint that can be served: its files are read, nothing is loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...dialect import SPECS
from .problem import Problem

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json")


def checkpoint(
    model: str, tokenizer: str | None = None, *, weights: bool = True
) -> Iterator[Problem]:
    """Problems of ``model``: a folder, a name on the Hub, or an address, which is taken as it is.

    Args:
        tokenizer: where its tokenizer is, if elsewhere.
        weights: there must be files with weights.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        broken = list(_config(folder))
        yield from broken
        if not broken and weights and not any(any(folder.glob(one)) for one in _WEIGHTS):
            yield Problem(
                f"{folder} holds no weights: none of {', '.join(_WEIGHTS)}",
                "copy or download them; half-finished downloads look like this",
            )
    elif folder.exists():
        if folder.suffix != ".gguf":
            yield Problem(f"{model} is a file", "name the folder that holds the checkpoint")
    elif "://" not in model and not _on_hub(model):
        yield Problem(
            f"no checkpoint at {model} (looked in {folder.absolute().parent})",
            "name a folder with a config.json, or a model on the Hub as OWNER/NAME",
        )
    source = folder if tokenizer is None else Path(tokenizer).expanduser()
    if source.is_dir():
        yield from _tags(source)
    elif tokenizer is not None and not source.exists() and not _on_hub(tokenizer):
        yield Problem(
            f"no tokenizer at {tokenizer} (looked in {source.absolute().parent})",
            "name a folder with a tokenizer.json by --tokenizer-path, or leave it out",
        )


def context_length(model: str) -> int | None:
    """Tokens that the model's context holds, where its config says so."""
    try:
        config = _json(Path(model).expanduser() / "config.json")
    except (OSError, ValueError):
        return None
    inner = config.get("text_config")
    for one in (config, inner if isinstance(inner, dict) else {}):
        found = one.get("max_position_embeddings")
        if isinstance(found, int):
            return found
    return None


def _on_hub(model: str) -> bool:
    """Whether it can be a name on the Hub: it reads like one, or is in the cache.

    ``runs/mine`` reads like one, too: where there is a folder ``runs`` it is taken for a path.
    """
    if not _HUB.fullmatch(model):
        return False
    owner = Path(model).parent
    if owner != Path() and owner.is_dir():
        home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
        return (Path(home) / "hub" / f"models--{model.replace('/', '--')}").exists()
    return True


def _config(folder: Path) -> Iterator[Problem]:
    file = folder / "config.json"
    try:
        config = _json(file)
    except FileNotFoundError:
        yield Problem(f"{folder} holds no config.json", "name the folder that holds the checkpoint")
    except OSError as error:
        yield Problem(f"{file} cannot be read: {error.strerror}", "change its permissions")
    except ValueError as error:
        yield Problem(f"{file} is not a JSON object: {error}", "copy or download it again")
    else:
        if not config.get("architectures"):
            yield Problem(
                f"{file} names no architecture",
                "serve a whole model: `multiverse merge-adapter` makes one of a LoRA adapter",
            )


def _tags(folder: Path) -> Iterator[Problem]:
    files = [folder / name for name in _TOKENIZERS if (folder / name).is_file()]
    if not files:
        yield Problem(
            f"{folder} holds no tokenizer: none of {', '.join(_TOKENIZERS)}",
            "copy it from the model it was trained from, or name its folder by --tokenizer-path",
        )
        return
    tokens: set[str] = set()
    for file in files:
        try:
            tokens |= _tokens(_json(file))
        except OSError as error:
            yield Problem(f"{file} cannot be read: {error.strerror}", "change its permissions")
            return
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            yield Problem(f"{file} is no tokenizer: {error}", "copy or download it again")
            return
    lacks = {spec.name: [tag for tag in spec.tags if tag not in tokens] for spec in SPECS}
    if all(lacks.values()):
        nearest = min(lacks, key=lambda name: len(lacks[name]))
        yield Problem(
            f"the tokenizer in {folder} lacks tags of the dialect {nearest}: "
            + " ".join(lacks[nearest]),
            f"`multiverse prepare-model {folder} --out DIR` adds them; then train, for untrained "
            "tags mean nothing (docs/training.md)",
        )


def _tokens(held: dict[str, Any]) -> set[str]:
    """Texts that are one token each, by any of the three files."""
    found = {one["content"] for one in held.get("added_tokens") or ()}
    found |= {one["content"] for one in (held.get("added_tokens_decoder") or {}).values()}
    vocabulary = (held.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, dict):
        found |= vocabulary.keys()
    else:  # Unigram: pairs of a text and its score
        found |= {one[0] for one in vocabulary}
    if all(isinstance(value, int) for value in held.values()):
        found |= held.keys()
    return found


def _json(file: Path) -> dict[str, Any]:
    held = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise ValueError(f"it holds {type(held).__name__}")
    return held
