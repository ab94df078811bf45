"""Fork/join decoding by plain recomputation: slow, and right by inspection.

What a path sees of the text is its parent's text and its own tokens, so its next token is the last
prediction over just these, laid out like any text. Where paths share, it is the prediction at the
path's end in the whole text of the moment. A check on the engine and on trained models, not a way
to serve them: every step runs the model over whole texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from ..dialect import Dialect
from ..layout import Layout, check_share_every, layout, layout_of, pack, plain
from ..structure import Block, Path, Sequencer, Signal, Trace, parse
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
    share_every: int | None = None,
) -> list[tuple[list[int], int]]:
    """Greedy answers to ``prompts``, each with the decoding steps it took.

    Args:
        share_every: of the layout that the model was trained with. A path that has written a chunk
            then waits until its siblings have ended or come as far.

    Returns:
        For each prompt the token ids after it in canonical order, and the number of steps in which
        all its live paths that do not wait, whatever their number, each gained a token.
    """
    check_share_every(share_every)
    choose = next_apart if share_every is None else partial(next_together, share_every=share_every)
    enable_multiverse_attention(model)
    model.eval()
    trunks = [Row(list(ids), len(ids), Sequencer(dialect)) for ids in prompts]
    steps = [0] * len(trunks)
    for _ in range(max_steps):
        live = [trunk for trunk in trunks if trunk.live()]
        if not live:
            break
        for i, trunk in enumerate(trunks):
            steps[i] += bool(trunk.live())
        for row, token in choose(model, live, dialect, batch_size):
            row.take(token, dialect, eos)
        for trunk in trunks:
            trunk.join(dialect)
    return [(trunk.text()[trunk.start :], n) for trunk, n in zip(trunks, steps, strict=True)]


def next_apart(
    model: Any, trunks: list[Row], dialect: Dialect, batch_size: int
) -> list[tuple[Row, int]]:
    """The next token of every live row, each from the text that it sees."""
    live = [row for trunk in trunks for row in trunk.live()]
    live.sort(key=lambda row: len(row.tokens))
    chosen: list[tuple[Row, int]] = []
    for at in range(0, len(live), batch_size):
        rows = live[at : at + batch_size]
        texts = [row.tokens for row in rows]
        logits = _logits(model, texts, [layout(text, dialect) for text in texts])
        chosen += [
            (row, int(logits[i, len(row.tokens) - 1].argmax())) for i, row in enumerate(rows)
        ]
    return chosen


def next_together(
    model: Any, trunks: list[Row], dialect: Dialect, batch_size: int, *, share_every: int
) -> list[tuple[Row, int]]:
    """The next token of every live row that does not wait, from the text of its whole trunk."""
    chosen: list[tuple[Row, int]] = []
    for at in range(0, len(trunks), batch_size):
        some = trunks[at : at + batch_size]
        traces, ends = zip(*(open_trace(trunk, dialect) for trunk in some), strict=True)
        laid = [layout_of(trace, share_every=share_every) for trace in traces]
        logits = _logits(model, [trunk.text() for trunk in some], laid, sharing=True)
        for i, trunk in enumerate(some):
            position = laid[i].position
            start = int(position[traces[i].blocks[-1].region_start]) if trunk.forked else 0
            live = [(row, ends[i][id(row)]) for row in trunk.live()]
            # A chunk may be read once no live row is still to write in the one before it.
            written = min(int(position[end]) + 1 - start for _, end in live) // share_every
            for row, end in live:
                if (int(position[end]) - start) // share_every <= written:
                    chosen.append((row, int(logits[i, end].argmax())))
    return chosen


def open_trace(trunk: Row, dialect: Dialect) -> tuple[Trace, dict[int, int]]:
    """The tree of ``trunk.text()`` while paths are open, as :func:`parse` will see it once they
    have ended, and the index of the last token of each row, by its ``id``."""
    ends: dict[int, int] = {}

    def place(row: Row, first: int, at: int, depth: int) -> tuple[list[Block], int]:
        """The blocks of a row whose own tokens, from ``first`` on, begin at ``at``; their end."""
        finished = [
            _moved(block, at - first)
            for block, found in parse(row.tokens, dialect).walk()
            if found == depth + 1 and block.start >= first
        ]
        end = at + len(row.tokens) - first
        ends[id(row)] = end - 1
        if not row.forked:
            return finished, end
        paths: list[Path] = []
        for path in row.forked:
            begin = end
            blocks, end = place(path, path.start, begin, depth + 1)
            paths.append(Path(begin, end, blocks=blocks))
        fork = paths[0].start
        return [*finished, Block(fork, (fork, fork), [], end, paths)], end

    blocks, length = place(trunk, 0, 0, 0)
    return Trace(length, blocks), ends


def _moved(block: Block, by: int) -> Block:
    """``block`` with the bounds that lay it out ``by`` tokens further on."""
    paths = [
        Path(path.start + by, path.end + by, blocks=[_moved(inner, by) for inner in path.blocks])
        for path in block.paths
    ]
    return replace(block, start=block.start + by, end=block.end + by, paths=paths)


def _logits(
    model: Any, texts: list[list[int]], layouts: list[Layout], sharing: bool = False
) -> torch.Tensor:
    """Shape ``(texts, longest, vocabulary)``."""
    length = max(map(len, texts))
    laid = [
        pack([one, plain(length - len(text))]) for one, text in zip(layouts, texts, strict=True)
    ]
    inputs = {
        "input_ids": torch.tensor([text + [0] * (length - len(text)) for text in texts]),
        "position_ids": torch.stack([torch.from_numpy(one.position) for one in laid]),
        "multiverse_order": torch.stack([torch.from_numpy(one.order) for one in laid]).int(),
    }
    if sharing:
        inputs["multiverse_rank"] = torch.stack([torch.from_numpy(one.ranks) for one in laid]).int()
    on_device = {name: value.to(model.device) for name, value in inputs.items()}
    return model(**on_device, use_cache=False).logits
