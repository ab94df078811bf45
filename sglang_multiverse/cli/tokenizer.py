"""A tokenizer from a folder, for commands that need no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..extras import missing


class TokenizerFile:
    """A ``tokenizer.json`` behind :class:`sglang_multiverse.dialect.Tokenizer`.

    Raises:
        OSError: the folder holds no ``tokenizer.json``.
        ValueError: the file is not a tokenizer, or the ``tokenizers`` package is missing.
    """

    def __init__(self, folder: Path):
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer.json in {folder}")
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ValueError(missing("tokenizers", "serve")) from error
        try:
            self._inner: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises bare Exception for a file it cannot read
            raise ValueError(f"{file} is not a tokenizer: {error}") from error

    def get_vocab(self) -> Mapping[str, int]:
        vocab: Mapping[str, int] = self._inner.get_vocab(with_added_tokens=True)
        return vocab

    def encode(self, text: str, *, add_special_tokens: bool = False) -> Sequence[int]:
        ids: Sequence[int] = self._inner.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._inner.decode(ids, skip_special_tokens=False)
        return text
