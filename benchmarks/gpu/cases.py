"""Texts and batches that the GPU checks run over, and attention by definition.

Imports the package from the repository it stands in; needs torch and numpy, nothing installed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as File
from types import SimpleNamespace
from typing import Any

ROOT = File(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from sglang_multiverse.attention.paged import Sizes  # noqa: E402
from sglang_multiverse.attention.plan import Extend  # noqa: E402
from sglang_multiverse.layout import Layout, layout_of, plain, segments  # noqa: E402
from sglang_multiverse.structure import Block, Path, Trace  # noqa: E402


@dataclass(frozen=True)
class Shape:
    """A text of ``tokens``: ``blocks`` of ``paths``, which hold ``share`` of the tokens; with
    ``nested`` every path has a block of two paths over half of it."""

    tokens: int
    blocks: int
    paths: int
    share: float
    nested: bool = False

    def __str__(self) -> str:
        inner = " nested" if self.nested else ""
        return (
            f"{self.tokens} tokens, {self.blocks} blocks of {self.paths}, {self.share:.0%}{inner}"
        )

    def trace(self) -> Trace:
        """The tree. Bounds of blocks beyond their paths play no part in attention."""
        region = int(self.tokens * self.share) // self.blocks
        gap = self.tokens // self.blocks - region
        blocks = []
        for i in range(self.blocks):
            start = i * (self.tokens // self.blocks) + gap // 2
            paths = tiles(start, start + region, self.paths)
            for path in paths if self.nested else []:
                quarter = (path.end - path.start) // 4
                path.blocks.append(block(tiles(path.start + quarter, path.end - quarter, 2)))
            blocks.append(block(paths))
        return Trace(self.tokens, blocks)


#: Texts whose extends are measured, as tiles and as times.
EXTENDS = (
    Shape(8192, 8, 3, 0.35),
    Shape(8192, 64, 4, 0.5),
    Shape(16384, 8, 4, 0.8),
    Shape(32768, 8, 4, 0.8, nested=True),
    Shape(32768, 64, 4, 0.5),
)


def tiles(start: int, end: int, count: int) -> list[Path]:
    """``count`` paths over ``[start, end)``."""
    edges = np.linspace(start, end, count + 1).astype(int).tolist()
    return [Path(a, b) for a, b in pairwise(edges)]


def block(paths: list[Path]) -> Block:
    start = paths[0].start
    return Block(start, (start, start), [], paths[-1].end, paths)


@dataclass(frozen=True)
class Row:
    """One row of an extend batch with the layout that says what it must see."""

    extend: Extend
    layout: Layout


def row(shape: Shape, cached: int = 0, end: int | None = None) -> Row:
    trace = shape.trace()
    return Row(
        Extend(cached, shape.tokens if end is None else end, segments(trace)), layout_of(trace)
    )


def plain_row(cached: int, end: int) -> Row:
    return Row(Extend(cached, end), plain(end))


@dataclass
class Pool:
    """Page tables over one layer of K and V, ``(slots, kv_heads, dim)``; free slots hold NaN."""

    table: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    sizes: Sizes

    @property
    def cache(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.k, self.v

    @property
    def scale(self) -> float:
        return self.sizes.head_dim**-0.5

    @property
    def device(self) -> torch.device:
        return self.k.device

    def batch(self, **fields: Any) -> Any:
        """What the product's code reads of a forward batch, over all rows."""
        rows = torch.arange(len(self.table), device=self.device)
        return SimpleNamespace(req_pool_indices=rows, kv_loc_plan=None, **fields)

    def pack_read_stream(self, _: Any, *, out: torch.Tensor, **lanes: torch.Tensor) -> None:
        """``KVIndexTranslator.pack_read_stream`` in torch, where no SGLang is."""
        lengths = lanes["seq_lens"].long()
        lane = torch.repeat_interleave(lengths)
        total = len(lane)
        within = torch.arange(total, device=self.device) - lanes["indptr"].long()[lane]
        column = lanes["kv_start_idx"].long()[lane] + within
        out[:total] = self.table[lanes["req_pool_indices"].long()[lane], column]

    def queries(self, count: int, seed: int = 1) -> torch.Tensor:
        return noise((count, self.sizes.num_qo_heads, self.sizes.head_dim), self.k, seed)


def noise(shape: tuple[int, ...], like: torch.Tensor, seed: int) -> torch.Tensor:
    made = torch.Generator(device=like.device).manual_seed(seed)
    return torch.randn(shape, generator=made, device=like.device, dtype=torch.float32).to(
        like.dtype
    )


def pool(
    lengths: Sequence[int], device: torch.device, *, heads: tuple[int, int], dim: int, seed: int = 0
) -> Pool:
    """One row per length, its tokens in slots drawn at random."""
    total = sum(lengths)
    slots = total + total // 8 + 8
    taken = torch.randperm(slots, generator=torch.Generator().manual_seed(seed))[:total].to(device)
    table = torch.zeros((len(lengths), max(lengths)), dtype=torch.int32, device=device)
    for i, part in enumerate(taken.split(list(lengths))):
        table[i, : len(part)] = part.int()
    k, v = (
        torch.full((slots, heads[1], dim), math.nan, device=device, dtype=torch.bfloat16)
        for _ in range(2)
    )
    for shift, cache in enumerate((k, v)):
        cache[taken] = noise((total, heads[1], dim), cache, seed + shift)
    sizes = Sizes(heads[0], heads[1], dim, torch.bfloat16, torch.bfloat16)
    return Pool(table, k, v, sizes)


def seen(layout: Layout, start: int, end: int, device: torch.device) -> torch.Tensor:
    """Which of tokens ``[0, end)`` each of ``[start, end)`` sees, from the two integers of the
    layout: ``(end - start, end)``."""
    order = torch.from_numpy(layout.order[:end]).to(device)
    mask = order[None, :] <= order[start:, None]
    return mask.tril_(diagonal=start)


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """float32, a stretch of queries at a time: ``q`` is ``(m, heads, dim)``, ``k`` and ``v``
    ``(n, kv_heads, dim)``, ``mask`` ``(m, n)``."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
    parts = []
    for at in range(0, len(q), 256):
        part = slice(at, at + 256)
        score = torch.einsum("qhd,khd->hqk", q[part].float(), keys) * scale
        score = score.masked_fill(~mask[part], -math.inf).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", score, values))
    return torch.cat(parts)


def expected(pool: Pool, rows: Sequence[Row], q: torch.Tensor) -> torch.Tensor:
    """What an extend of ``rows`` must give, in float32."""
    parts, at = [], 0
    for table, one in zip(pool.table, rows, strict=True):
        start, end = one.extend.prefix_len, one.extend.end
        mask = seen(one.layout, start, end, pool.device)
        slots = table[:end].long()
        part = q[at : at + end - start]
        parts.append(dense(part, pool.k[slots], pool.v[slots], mask, pool.scale))
        at += end - start
    return torch.cat(parts)
