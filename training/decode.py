"""Fork/join decoding by plain recomputation: slow, and right by inspection.

What a path sees of the text is its parent's text and its own tokens, so its next token is the last
prediction over just these, laid out like any text. A check on the engine and on trained models,
not a way to serve them: every step runs the model over whole texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..dialect import Dialect
from ..layout import layout, pack, plain
from ..structure import Sequencer, Signal
from .attention import enable_multiverse_attention


@dataclass
class Row:
    """One sequence: the trunk or a path.

    Attributes:
        tokens: all it sees; its own begin at ``start``.
        forked: the paths of its open block, if it has one.
    """

    tokens: list[int]
    start: int
    sequencer: Sequencer
    forked: list[Row] = field(default_factory=list)
    done: bool = False

    def live(self) -> list[Row]:
        """The rows under this one that await a token."""
        if self.forked:
            return [row for path in self.forked for row in path.live()]
        return [] if self.done else [self]

    def text(self) -> list[int]:
        """Its tokens and, in canonical order, those of its open block."""
        return self.tokens + [token for path in self.forked for token in path.text()[path.start :]]

    def take(self, token: int, dialect: Dialect, eos: int) -> None:
        """Append the token that the model chose, and what an engine writes after it."""
        self.tokens.append(token)
        signal = self.sequencer.feed(token, len(self.tokens) - 1)
        if signal is Signal.FORK:
            self.tokens += dialect.goal_tail
            for index, (start, end) in enumerate(self.sequencer.outlines):
                label = dialect.label(self.tokens[start + 1 : end]) or dialect.ordinal(index)
                seen = [*self.tokens, *dialect.path_seed(label)]
                child = Sequencer(dialect, self.sequencer.depth + 1)
                self.forked.append(Row(seen, len(self.tokens), child))
        elif signal is Signal.END_PATH:
            self.tokens += dialect.path_tail
            self.done = True
        elif token == eos:
            self.done = True

    def join(self, dialect: Dialect) -> None:
        """Join every block under this row whose paths have all ended."""
        for path in self.forked:
            path.join(dialect)
        if self.forked and all(path.done and not path.forked for path in self.forked):
            self.tokens = [*self.text(), *dialect.conclusion_seed]
            self.forked = []
            self.sequencer.resume()


@torch.no_grad()
def fork_join_decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    dialect: Dialect,
    *,
    eos: int,
    max_steps: int = 1024,
    batch_size: int = 64,
) -> list[tuple[list[int], int]]:
    """Greedy answers to ``prompts``, each with the decoding steps it took.

    Returns:
        For each prompt the token ids after it in canonical order, and the number of steps in which
        all its live paths, whatever their number, each gained a token.
    """
    enable_multiverse_attention(model)
    model.eval()
    trunks = [Row(list(ids), len(ids), Sequencer(dialect)) for ids in prompts]
    steps = [0] * len(trunks)
    for _ in range(max_steps):
        live = [row for trunk in trunks for row in trunk.live()]
        if not live:
            break
        for i, trunk in enumerate(trunks):
            steps[i] += bool(trunk.live())
        live.sort(key=lambda row: len(row.tokens))
        for at in range(0, len(live), batch_size):
            rows = live[at : at + batch_size]
            chosen = _next_tokens(model, [row.tokens for row in rows], dialect)
            for row, token in zip(rows, chosen, strict=True):
                row.take(token, dialect, eos)
        for trunk in trunks:
            trunk.join(dialect)
    return [(trunk.text()[trunk.start :], n) for trunk, n in zip(trunks, steps, strict=True)]


def _next_tokens(model: Any, texts: list[list[int]], dialect: Dialect) -> list[int]:
    length = max(map(len, texts))
    laid = [pack([layout(text, dialect), plain(length - len(text))]) for text in texts]
    inputs = {
        "input_ids": torch.tensor([text + [0] * (length - len(text)) for text in texts]),
        "position_ids": torch.stack([torch.from_numpy(one.position) for one in laid]),
        "multiverse_order": torch.stack([torch.from_numpy(one.order) for one in laid]).int(),
    }
    on_device = {name: value.to(model.device) for name, value in inputs.items()}
    logits = model(**on_device, use_cache=False).logits
    return [int(logits[i, len(text) - 1].argmax()) for i, text in enumerate(texts)]
