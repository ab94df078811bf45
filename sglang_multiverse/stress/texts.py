"""Random canonical texts for the engine to write: prompt, then nested blocks."""

from __future__ import annotations

import random
from typing import Any

from ..dialect import Dialect, Tag


class Texts:
    """Makes texts of a tokenizer's ordinary tokens and its dialect's tags."""

    def __init__(self, tokenizer: Any, dialect: Dialect):
        self.dialect = dialect
        special = {*dialect.tag_ids, *tokenizer.all_special_ids, dialect.colon}
        self.words = [i for i in range(len(tokenizer)) if i not in special]
        self.eos = tokenizer.eos_token_id
        self._tokenizer = tokenizer

    def make(self, seed: int, *, depth: int = 3, blocks: int = 1) -> tuple[list[int], int]:
        """A text with at least one block, and the length of its prompt."""
        rng = random.Random(seed)
        prompt = self._text(rng, 3, 9)
        body: list[int] = self._text(rng, 1, 5)
        for _ in range(blocks):
            body += self._block(rng, depth, "")
            body += self._text(rng, 1, 4)
        return prompt + body, len(prompt)

    def _text(self, rng: random.Random, least: int, most: int) -> list[int]:
        return [rng.choice(self.words) for _ in range(rng.randint(least, most))]

    def _block(self, rng: random.Random, depth: int, label: str) -> list[int]:
        one, separator = self.dialect, list(self.dialect.separator)

        def tag(which: Tag) -> list[int]:
            return [one[which], *separator]

        labels = [
            self._tokenizer.encode(f"{label}{i + 1}", add_special_tokens=False)
            for i in range(rng.randint(2, 4))
        ]
        out = tag(Tag.PARALLEL) + tag(Tag.GOAL)
        for ids in labels:
            out += [*tag(Tag.OUTLINE), *ids, one.colon, *self._text(rng, 1, 3), *separator]
            out += tag(Tag.END_OUTLINE)
        out += tag(Tag.END_GOAL)
        for i, ids in enumerate(labels):
            out += [*one.path_seed(ids), *self._text(rng, 1, 9)]
            if depth > 1 and rng.random() < 0.4:
                out += self._block(rng, depth - 1, f"{label}{i + 1}.") + self._text(rng, 0, 3)
            out += tag(Tag.END_PATH)
        out += [*one.conclusion_seed, *self._text(rng, 1, 5)]
        return out + tag(Tag.END_CONCLUSION) + tag(Tag.END_PARALLEL)
