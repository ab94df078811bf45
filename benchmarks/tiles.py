"""How many tiles of the attention matrix a prefill kernel visits: by runs, and under a mask.

    python benchmarks/tiles.py

Counts, not times. A model of FlashInfer's fa2 prefill at five query heads to a KV head: a tile has
128 rows of packed queries (token by head) and 64 keys; under a causal plan a row of tiles ends at
its last query, under a custom mask it ends with the keys. Prints Markdown.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "gpu"))

from cases import EXTENDS, row

from sglang_multiverse.attention.plan import Extend, ExtendPlan, plan

GROUP, ROWS, KEYS = 5, 128, 64


def tiles(made: ExtendPlan, *, causal: bool = True) -> int:
    total = 0
    for queries, keys in zip(np.diff(made.qo_indptr), np.diff(made.kv_indptr), strict=True):
        ends = np.minimum(np.arange(ROWS, queries * GROUP + ROWS, ROWS), queries * GROUP)
        last = keys - queries + -(-ends // GROUP) if causal else np.full(len(ends), keys)
        total += int((-(-last // KEYS)).sum())
    return total


def main() -> None:
    print("| text | runs | runs / causal | mask / causal | mask, MiB: as bytes, as bits |")
    print("|---|---|---|---|---|")
    for shape in EXTENDS:
        made = plan([row(shape).extend])
        whole = plan([Extend(0, shape.tokens)])
        causal = tiles(whole)
        by_runs, by_mask = tiles(made) / causal, tiles(whole, causal=False) / causal
        size = shape.tokens**2 / 2**20
        ratios = f"{by_runs:.2f} | {by_mask:.2f}"
        print(f"| {shape} | {len(made)} | {ratios} | {size:.0f}, {size / 8:.0f} |")


if __name__ == "__main__":
    main()
