"""The likelihood test of independence: does a path get likelier once its siblings can be seen?

For every path the text is laid out with that path last among its siblings. Once the siblings are
hidden from it, as in training and serving; once it sees them, at the positions that follow the
longest of them, as the conclusion does. The gain is the difference of its negative log-likelihood,
NLL(path | prefix) − NLL(path | prefix, siblings). A path that leans on a sibling gains much; one
that merely shares its style gains a little. What is much depends on the model, so the bound has to
be chosen on texts one knows.

A trained fork-join model is not needed: any causal language model whose tokenizer holds the tags
will do, if it knows the language.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sglang_multiverse.dialect import Dialect, Tokenizer
from sglang_multiverse.layout import Layout, layout_of
from sglang_multiverse.lexer import encode
from sglang_multiverse.structure import Block, Path, Trace, parse

from ...finding import Finding
from ..text.located import Located, LocatedBlock, locate

Floats = npt.NDArray[np.floating[Any]]


class Score(Protocol):
    """A language model, as far as the test needs one."""

    def __call__(self, ids: Sequence[int], laid: Layout) -> Floats:
        """Negative log-likelihood in nats of every token given those it sees, shape ``(n,)``; the
        first is not defined."""


@dataclass(frozen=True)
class Gain:
    """What seeing its siblings does for one path.

    Attributes:
        label: of the path.
        tokens: of its text, without its opening and its closing tag.
        alone, seeing: negative log-likelihood of these in nats.
    """

    label: str | None
    tokens: int
    alone: float
    seeing: float

    @property
    def per_token(self) -> float:
        """Gain in nats a token."""
        return (self.alone - self.seeing) / max(self.tokens, 1)


def sibling_gains(text: str, tokenizer: Tokenizer, dialect: Dialect, score: Score) -> list[Gain]:
    """The gain of every path of every block of ``text``, at two forward passes a path."""
    return [gain for gain, _ in _gains(locate(text), tokenizer, dialect, score)]


def check_likelihood(
    text: str,
    tokenizer: Tokenizer,
    dialect: Dialect,
    score: Score,
    *,
    max_gain: float,
) -> list[Finding]:
    """Paths that gain more than ``max_gain`` nats a token from seeing their siblings."""
    return [
        Finding(
            "sibling-likelihood",
            f"path {gain.label} is {gain.per_token:.2f} nats a token likelier once it sees the "
            "other paths; rewrite it so that it can be read without them",
            span,
            gate="independence",
        )
        for gain, span in _gains(locate(text), tokenizer, dialect, score)
        if gain.per_token > max_gain
    ]


def _gains(
    located: Located, tokenizer: Tokenizer, dialect: Dialect, score: Score
) -> Iterator[tuple[Gain, tuple[int, int]]]:
    for block in located.walk():
        for index, path in enumerate(block.paths):
            moved = _with_last(located.text, block, index)
            ids = encode(moved, tokenizer, dialect)
            trace = parse(ids, dialect)
            found = _last_path(trace)
            hidden = layout_of(trace)
            scored = slice(_text_start(ids, found, dialect), found.close or found.end)
            alone = score(ids, hidden)[scored]
            seeing = score(ids, _seeing(hidden, trace, found))[scored]
            yield (
                Gain(path.label, len(alone), float(alone.sum()), float(seeing.sum())),
                path.inner,
            )


def _with_last(text: str, block: LocatedBlock, index: int) -> str:
    """The text up to the end of the block's paths, with the ``index``-th one last."""
    paths = [text[path.span[0] : path.span[1]] for path in block.paths]
    last = paths.pop(index)
    return text[: block.paths[0].span[0]] + "\n".join([*paths, last])


def _last_path(trace: Trace) -> Path:
    """The last path of the block that the text ends in."""
    open_blocks: list[Block] = [block for block, _ in trace.walk() if not block.joined]
    return open_blocks[-1].paths[-1]


def _text_start(ids: Sequence[int], path: Path, dialect: Dialect) -> int:
    """Where the text of a path begins, after its label."""
    label = dialect.label([int(i) for i in ids[path.start + 1 : path.end]])
    return path.start + len(dialect.path_seed(label or ()))


def _seeing(hidden: Layout, trace: Trace, path: Path) -> Layout:
    """The layout in which ``path``, the last of the text, sees its siblings."""
    block = [block for block, _ in trace.walk() if not block.joined][-1]
    region = slice(block.region_start, path.start)
    order, position = hidden.order.copy(), hidden.position.copy()
    inside = slice(path.start, path.end)
    if path.start > block.region_start:
        order[inside] += order[region].max() + 1 - order[inside].min()
        position[inside] += position[region].max() + 1 - position[path.start]
    return Layout(position=position, order=order)


class ModelScore:
    """A Hugging Face causal language model as :class:`Score`.

    Args:
        model: with attention that takes a mask (sdpa, eager or flex_attention).
    """

    def __init__(self, model: Any):
        from sglang_multiverse.training.attention import enable_multiverse_attention

        self.model = enable_multiverse_attention(model).eval()

    def __call__(self, ids: Sequence[int], laid: Layout) -> Floats:
        import torch

        device = self.model.device
        tokens = torch.tensor([list(ids)], device=device)
        with torch.no_grad():
            logits = self.model(
                input_ids=tokens,
                position_ids=torch.tensor(laid.position[None], device=device),
                multiverse_order=torch.tensor(laid.order[None], device=device),
            ).logits[0, :-1]
        likelihood = torch.log_softmax(logits.float(), dim=-1)
        nll = -likelihood.gather(1, tokens[0, 1:, None])[:, 0]
        return np.concatenate([[np.nan], nll.cpu().double().numpy()])
