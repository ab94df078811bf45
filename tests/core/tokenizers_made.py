"""Small tokenizers made on the spot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from sglang_multiverse.dialect import MULTIVERSE


def byte_level(
    tags: Iterable[str] = MULTIVERSE.tags, merges: Iterable[tuple[str, str]] = ()
) -> Tokenizer:
    """One token per byte, single digits, then ``merges`` and ``tags``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(merges)
    words = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+|[^\n]+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(tag, normalized=False) for tag in tags])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


class Bound:
    """A :class:`tokenizers.Tokenizer` with the face of a Hugging Face tokenizer."""

    def __init__(self, inner: Tokenizer):
        self.inner = inner

    def get_vocab(self) -> dict[str, int]:
        return self.inner.get_vocab()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Sequence[int]:
        return self.inner.encode(text, add_special_tokens=add_special_tokens).ids
