"""How parallel a text is: the paper's degree of parallelism and the net one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layout import Layout, layout_of
from .structure import Trace


@dataclass(frozen=True)
class Parallelism:
    """Token counts of one generation and the two ratios made of them.

    Attributes:
        tokens: generated tokens.
        critical_path_tokens: generated tokens on the longest chain of visible tokens.
        content_tokens: generated tokens outside tags of blocks, goals and conclusions.
        blocks, paths, depth: of the blocks that forked in it; depth 0 means none did.
    """

    tokens: int
    critical_path_tokens: int
    content_tokens: int
    blocks: int
    paths: int
    depth: int

    @property
    def degree(self) -> float:
        """Generated tokens ÷ critical-path tokens (arXiv 2506.09991, "# parallel")."""
        return self.tokens / self.critical_path_tokens if self.critical_path_tokens else 1.0

    @property
    def net(self) -> float:
        """Content tokens ÷ critical-path tokens: over 1 the parallel text takes fewer steps than
        writing the same paths one after another would."""
        return self.content_tokens / self.critical_path_tokens if self.critical_path_tokens else 1.0


def parallelism(trace: Trace, *, prompt_tokens: int = 0, laid: Layout | None = None) -> Parallelism:
    """Measure the text after the first ``prompt_tokens`` tokens of ``trace``.

    Args:
        laid: the trace's layout, where the caller has it already.
    """
    laid = laid or layout_of(trace)
    n = trace.length
    base = int(laid.position[:prompt_tokens].max()) + 1 if prompt_tokens else 0
    overhead = np.zeros(n, dtype=bool)
    forked = [(block, depth) for block, depth in trace.walk() if block.goal[1] > prompt_tokens]
    for block, _ in trace.walk():
        # The opening up to the first path, and the conclusion with the block's closing tag.
        overhead[block.start : block.region_start] = True
        if block.conclusion is not None:
            overhead[block.region_end : block.end] = True
        for path in block.paths:
            overhead[path.start] = True
            if path.close is not None:
                overhead[path.close - 1 : path.end] = True
    tokens = max(n - prompt_tokens, 0)
    return Parallelism(
        tokens=tokens,
        critical_path_tokens=max(laid.critical_path - base, 0),
        content_tokens=tokens - int(overhead[prompt_tokens:].sum()),
        blocks=len(forked),
        paths=sum(len(block.paths) for block, _ in forked),
        depth=max((depth for _, depth in forked), default=0),
    )
