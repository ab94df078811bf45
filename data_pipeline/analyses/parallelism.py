"""How parallel a corpus is: both measures, and what they are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import numpy as np

from sglang_multiverse import structure
from sglang_multiverse.layout import Layout, layout_of
from sglang_multiverse.parallelism import Parallelism, parallelism

from .intervals import bootstrap_mean

PERCENTILES = (5, 25, 50, 75, 95)

#: What is measured of a block, in tokens with tags; ``imbalance`` is longest ÷ mean path.
SIZES = ("path", "outline", "goal", "conclusion", "block", "imbalance")

#: Text → its tree.
Parse = Callable[[str], structure.Trace]


@dataclass(frozen=True)
class BlockMeasure:
    """One block whose paths have joined. ``saving``: tokens of the critical path by which it is
    shorter than the text of its paths, written one after another without tags, goal and
    conclusion."""

    depth: int
    branches: int
    saving: int
    sizes: dict[str, list[float]]


@dataclass(frozen=True)
class TraceMeasure:
    """One trace. ``in_paths``: tokens in a path, at any depth. ``open_blocks`` had not joined
    where the trace ends; they count in ``whole`` alone."""

    whole: Parallelism
    well_formed: bool
    in_paths: int
    blocks: list[BlockMeasure]
    open_blocks: int


def measure(trace: structure.Trace) -> TraceMeasure:
    """Measure one trace."""
    laid = layout_of(trace)
    overhead = _overhead(trace)
    in_paths = np.zeros(trace.length, dtype=bool)
    blocks: list[BlockMeasure] = []
    unjoined = 0
    for block, depth in trace.walk():
        in_paths[block.region_start : block.region_end] = True
        if block.joined:
            blocks.append(_block(block, depth, laid, overhead))
        else:
            unjoined += 1
    return TraceMeasure(
        parallelism(trace, laid=laid), trace.well_formed, int(in_paths.sum()), blocks, unjoined
    )


def _overhead(trace: structure.Trace) -> Any:
    """Tokens of tags, goals and conclusions of blocks, as net parallelism counts them."""
    mask = np.zeros(trace.length, dtype=bool)
    for block, _ in trace.walk():
        mask[block.start : block.region_start] = True
        mask[block.region_end : block.end] = True
        for path in block.paths:
            mask[path.start] = True
            if path.close is not None:
                mask[path.close - 1 : path.end] = True
    return mask


def _block(block: structure.Block, depth: int, laid: Layout, overhead: Any) -> BlockMeasure:
    inside = slice(block.start, block.end)
    critical = int(laid.position[inside].max()) + 1 - int(laid.position[block.start])
    content = int((~overhead[inside]).sum())
    lengths = [path.end - path.start for path in block.paths]
    sizes: dict[str, list[float]] = {
        "path": list(map(float, lengths)),
        "outline": [float(end - start) for start, end in block.outlines],
        "goal": [float(block.goal[1] - block.goal[0])],
        "conclusion": [],
        "block": [float(block.end - block.start)],
        "imbalance": [max(lengths) / fmean(lengths)],
    }
    if block.conclusion is not None:
        sizes["conclusion"] = [float(block.conclusion[1] - block.conclusion[0])]
    return BlockMeasure(depth, len(block.paths), content - critical, sizes)


@dataclass
class Statistics:
    """What many traces come to."""

    tokens: str
    seed: int
    traces: list[TraceMeasure] = field(default_factory=list)
    bad_rows: int = 0

    def row(self) -> dict[str, Any]:
        """All figures as one JSON object; without traces ``degree`` and ``net`` are empty."""
        forked = [one for one in self.traces if one.whole.blocks]
        blocks = [block for one in self.traces for block in one.blocks]
        return {
            "texts": len(self.traces),
            "bad_rows": self.bad_rows,
            "well_formed": sum(one.well_formed for one in self.traces),
            "with_blocks": len(forked),
            "tokens_by": self.tokens,
            "seed": self.seed,
            "all": self._ratios(self.traces),
            "forked": self._ratios(forked),
            "blocks": len(blocks),
            "open_blocks": sum(one.open_blocks for one in self.traces),
            "blocks_per_trace": _spread([float(one.whole.blocks) for one in forked]),
            "branches": _counts(block.branches for block in blocks),
            "depth_of_block": _counts(block.depth for block in blocks),
            "deepest_of_trace": _counts(one.whole.depth for one in self.traces),
            "sizes": {
                name: _spread([value for block in blocks for value in block.sizes[name]])
                for name in SIZES
            },
            "critical_path": _savings(blocks),
        }

    def _ratios(self, traces: Sequence[TraceMeasure]) -> dict[str, Any]:
        if not traces:
            return {}
        wholes = [one.whole for one in traces]
        critical = sum(one.critical_path_tokens for one in wholes)
        shares = [one.in_paths / max(one.whole.tokens, 1) for one in traces]
        return {
            "texts": len(traces),
            "degree": self._ratio(
                [one.degree for one in wholes], sum(one.tokens for one in wholes) / max(critical, 1)
            ),
            "net": self._ratio(
                [one.net for one in wholes],
                sum(one.content_tokens for one in wholes) / max(critical, 1),
            ),
            "net_over_1": sum(one.net > 1 for one in wholes),
            "tokens_mean": fmean(one.tokens for one in wholes),
            "critical_path_tokens_mean": fmean(one.critical_path_tokens for one in wholes),
            "share_in_paths": fmean(shares),
        }

    def _ratio(self, values: list[float], micro: float) -> dict[str, float]:
        low, high = bootstrap_mean(values, self.seed)
        return {
            "mean": fmean(values),
            "low": low,
            "high": high,
            "micro": micro,
            "median": median(values),
            "max": max(values),
        }


def _counts(values: Any) -> dict[str, int]:
    return {str(key): count for key, count in sorted(Counter(values).items())}


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    spread: dict[str, float] = {"n": len(values), "mean": fmean(values), "max": max(values)}
    found = np.percentile(values, PERCENTILES)
    return spread | {f"p{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)}


def _savings(blocks: Sequence[BlockMeasure]) -> dict[str, Any]:
    """Inner blocks count by themselves and in the block around them; sums are of outer ones."""
    if not blocks:
        return {"blocks": 0, "shortened": 0}
    savings = [block.saving for block in blocks]
    outer = [block.saving for block in blocks if block.depth == 1]
    return {
        "blocks": len(savings),
        "shortened": sum(saving > 0 for saving in savings),
        "median_saving": median(savings),
        "total_saving": sum(outer),
        "gained": sum(saving for saving in outer if saving > 0),
    }
