"""Turns: where in a conversation tags are structure, and where they are words.

Tags carry structure in what an assistant has written. A user who quotes a block has written words.
Which tokens are an assistant's is read off the chat template, by ids, so that it holds for whatever
reaches the model as an assistant's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Spans = list[tuple[int, int]]

_USER, _ASSISTANT = "5817203", "9402716"  # digits: no tokenizer fuses them with a template's text


@dataclass(frozen=True)
class Turns:
    """How a chat template frames an assistant's turn.

    Attributes:
        opener: ids that begin it (``<|im_start|>assistant`` in ChatML).
        closer: the id that ends it.
    """

    opener: tuple[int, ...]
    closer: int

    def spans(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> Spans:
        """``[start, end)`` of what assistants say in ``ids``, in order; the last may be open.

        Empty where no assistant's turn begins.
        """
        tokens = np.asarray(ids)
        found: Spans = []
        length = len(self.opener)
        starts = np.flatnonzero(tokens[: max(len(tokens) - length + 1, 0)] == self.opener[0])
        for offset in range(1, length):
            starts = starts[tokens[starts + offset] == self.opener[offset]]
        ends = np.flatnonzero(tokens == self.closer)
        for begin in (starts + length).tolist():
            if found and begin <= found[-1][1]:
                continue  # an opener that an assistant has written
            after = int(np.searchsorted(ends, begin))
            found.append((begin, int(ends[after]) if after < len(ends) else len(tokens)))
        return found

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> Turns | None:
        """Read the frame off the tokenizer's chat template; None where it has none, or one whose
        assistant turns no special token frames."""
        if not getattr(tokenizer, "chat_template", None):
            return None
        user = {"role": "user", "content": _USER}
        assistant = {"role": "assistant", "content": _ASSISTANT}
        try:
            text = tokenizer.apply_chat_template([user, assistant, user], tokenize=False)
        except Exception:  # a template may raise anything on a conversation it does not know
            return None
        frame = _frame(text)
        if frame is None:
            return None
        before, rest = frame

        def ids(part: str) -> list[int]:
            return [int(i) for i in tokenizer.encode(part, add_special_tokens=False)]

        special = set(tokenizer.all_special_ids) | _added(tokenizer)
        opening, closing = ids(before.rstrip()), ids(rest)
        closer = next((i for i in closing if i in special), None)
        if closer is None:
            return None
        # The shortest run from a special token on that does not begin the user's turn as well.
        user_header = ids(rest.rstrip())
        for at in reversed([i for i, token in enumerate(opening) if token in special]):
            opener = opening[at:]
            if user_header[-len(opener) :] != opener:
                return cls(tuple(opener), closer)
        return None


def _frame(text: str) -> tuple[str, str] | None:
    """What stands between a user's words and the assistant's, and these and the next user's."""
    head, found, rest = text.partition(_ASSISTANT)
    if not found or _USER not in head or _USER not in rest:
        return None
    return head.split(_USER, 1)[1], rest.split(_USER, 1)[0]


def _added(tokenizer: Any) -> set[int]:
    return {int(i) for i in getattr(tokenizer, "added_tokens_decoder", {})}


__all__ = ["Spans", "Turns"]
