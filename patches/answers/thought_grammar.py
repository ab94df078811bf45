"""A grammar that waits for the thought, as an object SGLang masks logits with.

Extends ``ReasonerGrammarObject``. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.constrained.base_grammar_backend import BaseGrammarObject
from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject

from ...dialect import Dialect, Tag


class ThoughtGrammar(ReasonerGrammarObject):  # type: ignore[misc]
    """A grammar that begins after ``</Think>``, or at once where the answer does not begin with
    ``<Think>``. In what it constrains no tag is a token, so nothing forks there.

    It sees the tokens that the trunk samples, never those of a path or of the engine.

    Attributes:
        waits: the request asked for a grammar that waits for the thought.
        undecided: the first token tells whether there is a thought.
    """

    def __init__(self, dialect: Dialect, **kwargs: Any):
        super().__init__(**kwargs)
        self.dialect = dialect
        self.waits = False
        self.undecided = False

    @classmethod
    def like(cls, made: ReasonerGrammarObject, dialect: Dialect) -> ThoughtGrammar:
        """The same grammar object in the same state, of this class."""
        names = (
            *("grammar", "think_end_ids", "think_excluded_token_ids", "max_think_tokens"),
            *("enable_token_filter", "token_filter_fn", "allocate_vocab_mask_fn"),
            *("move_vocab_mask_fn", "apply_vocab_mask_fn", "think_starts", "decode"),
        )
        new = cls(dialect, **{name: getattr(made, name) for name in names})
        new.tokens_in_think = made.tokens_in_think
        new.tokens_after_end = made.tokens_after_end
        new._matched_think_end_tokens = made._matched_think_end_tokens
        new._thinking_match_history = list(made._thinking_match_history)
        new._finished = made._finished
        new.current_token = made.current_token
        new.reasoning_in_grammar = made.reasoning_in_grammar
        new._opening = list(made._opening)
        new._opening_text = made._opening_text
        new._generated = made._generated
        return new

    def copy(self) -> ThoughtGrammar:
        new = self.like(super().copy(), self.dialect)
        new.waits, new.undecided = self.waits, self.undecided
        return new

    def begin(self, *, waits: bool, opened: bool) -> None:
        """Before the first token: whether the grammar waits for the thought, and whether the
        prompt has opened it."""
        self.waits = waits and not self.reasoning_in_grammar
        self.undecided = self.waits and not opened and self.grammar is not None

    @property
    def begun(self) -> bool:
        """Whether the grammar constrains the next token."""
        return self.grammar is not None and (not self.waits or self._is_generation())

    def accept_token(self, token: int) -> None:
        if self.undecided:
            self.undecided = False
            if token != self.dialect[Tag.THINK]:
                self.tokens_in_think, self.tokens_after_end = -1, 0
        super().accept_token(token)

    def fill_vocab_mask(self, vocab_mask: torch.Tensor, idx: int) -> None:
        if self.undecided:
            self.grammar.fill_vocab_mask(vocab_mask, idx)
        else:
            super().fill_vocab_mask(vocab_mask, idx)
        if self.undecided or (self.waits and self.begun):
            permit(vocab_mask, idx, self.dialect.tag_ids, False)
        if self.undecided:
            permit(vocab_mask, idx, (self.dialect[Tag.THINK],), True)


def permit(mask: torch.Tensor, row: int, ids: Sequence[int], allowed: bool) -> None:
    """Allow or forbid ``ids`` in one row of a grammar backend's mask.

    Args:
        mask: shape ``(rows, ceil(vocabulary / 32))``, int32, a set bit allows (xgrammar,
            llguidance); or ``(rows, vocabulary)``, bool, True forbids (outlines).
    """
    if mask.dtype is torch.bool:
        mask[row, list(ids)] = not allowed
        return
    for token in ids:
        word, bit = divmod(token, 32)
        value = int(mask[row, word]) & 0xFFFFFFFF
        value = value | 1 << bit if allowed else value & ~(1 << bit)
        mask[row, word] = value - (1 << 32) if value >> 31 else value


def forks(grammar: BaseGrammarObject | None) -> bool:
    """Whether a request with this grammar may fork: there is none, or it waits for the thought."""
    return grammar is None or (isinstance(grammar, ThoughtGrammar) and not grammar.begun)
