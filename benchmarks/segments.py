"""What a structured extend costs on a CPU: the plan, and one layer of attention.

    OMP_NUM_THREADS=1 python benchmarks/segments.py [--repeats 5] [--longest 8192]

Prints Markdown. Attention is SGLang's torch reference backend (causal, the same tokens as plain
text), the ``multiverse`` backend on the same pools, and torch under a dense mask; process time of
one thread, which other work on the machine disturbs little. 14 query heads, 2 KV heads, 64 wide
(Qwen2.5-0.5B), float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).resolve().parent / "gpu"))

from cases import Row, Shape, row, seen

from sglang_multiverse.attention.plan import Extend, plan
from sglang_multiverse.attention.torch_native import MultiverseTorchBackend
from sglang_multiverse.layout import Segment

HEADS, DIM = (14, 2), 64

SHAPES = (
    Shape(2048, 16, 4, 0.5),
    Shape(8192, 8, 3, 0.35),
    Shape(8192, 8, 4, 0.8, nested=True),
    Shape(8192, 64, 4, 0.5),
    Shape(32768, 8, 4, 0.8, nested=True),
    Shape(32768, 64, 4, 0.5),
)


def taken(call: Callable[[], Any]) -> float:
    """Milliseconds of process time."""
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def interleaved(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Milliseconds of each call, one after another in every round, a round before not counted."""
    rounds = [[taken(call) for call in calls] for _ in range(repeats + 1)]
    return [list(times) for times in zip(*rounds[1:], strict=True)]


def ratio(times: list[float], base: list[float]) -> float:
    """Median of the ratios within rounds."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


class Forward:
    """One extend of one text over SGLang's pools."""

    def __init__(self, tokens: int, cached: int):
        rows = ReqToTokenPool(1, tokens, "cpu", False)
        pool = MHATokenToKVPool(tokens, 1, torch.float32, HEADS[1], DIM, 1, "cpu", False)
        slots = torch.randperm(tokens)
        rows.req_to_token[1] = slots.int()
        for buffer in (*pool.k_buffer, *pool.v_buffer):
            buffer.normal_()
        self.runner = SimpleNamespace(device="cpu", req_to_token_pool=rows, token_to_kv_pool=pool)
        self.layer = RadixAttention(HEADS[0], DIM, DIM**-0.5, HEADS[1], layer_id=0)
        new = tokens - cached
        self.batch = ForwardBatch(
            forward_mode=ForwardMode.EXTEND,
            batch_size=1,
            input_ids=torch.zeros(new, dtype=torch.long),
            req_pool_indices=torch.tensor([1]),
            seq_lens=torch.tensor([tokens]),
            out_cache_loc=slots[cached:],
            seq_lens_sum=tokens,
            extend_seq_lens=torch.tensor([new]),
            extend_prefix_lens=torch.tensor([cached]),
            extend_seq_lens_cpu=[new],
            extend_prefix_lens_cpu=[cached],
        )
        self.q, self.k, self.v = (torch.randn(new, heads * DIM) for heads in (*HEADS, HEADS[1]))
        self.k, self.v = (x.view(new, HEADS[1], DIM) for x in (self.k, self.v))

    def by(self, backend: Any, extends: list[Extend] | None) -> Callable[[], Any]:
        """One layer of attention, its plan made beforehand."""

        def call() -> None:
            self.batch.multiverse_extends = extends
            backend.forward_extend(self.q, self.k, self.v, self.layer, self.batch)

        self.batch.multiverse_extends = extends
        backend.init_forward_metadata(self.batch)
        return call

    def by_mask(self, one: Row) -> Callable[[], Any]:
        """The same under a mask of every pair, made beforehand."""
        mask = seen(one.layout, one.extend.prefix_len, one.extend.end, torch.device("cpu"))
        query = self.q.view(-1, HEADS[0], DIM).movedim(0, 1)[None]
        table = self.runner.req_to_token_pool.req_to_token[1]
        pool = self.runner.token_to_kv_pool

        def call() -> None:
            keys, values = (x[0][table].movedim(0, 1)[None] for x in (pool.k_buffer, pool.v_buffer))
            scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)

        return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--longest", type=int, default=8192, help="for attention, in tokens")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| text | cached | runs | plan, ms | stock causal, ms | segments | dense mask |")
    print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for cached in (0, shape.tokens * 3 // 4):
            one = row(shape, cached=cached)
            runs = len(plan([one.extend]))
            host = statistics.median(taken(lambda one=one: plan([one.extend])) for _ in range(50))
            line = f"| {shape} | {cached} | {runs} | {host:.2f} |"
            if shape.tokens <= options.longest:
                forward = Forward(shape.tokens, cached)
                calls = (
                    forward.by(TorchNativeAttnBackend(forward.runner), None),
                    forward.by(MultiverseTorchBackend(forward.runner), [one.extend]),
                    forward.by_mask(one),
                )
                causal, ours, mask = interleaved(calls, options.repeats)
                line += f" {statistics.median(causal):.0f} |"
                line += f" {ratio(ours, causal):.2f} | {ratio(mask, causal):.2f} |"
            else:
                line += " | | |"
            print(line, flush=True)
    # Named as a text of one segment, for a batch of plain rows alone is left to stock.
    one_segment = [Segment(0, 2048, 0, ())]
    forward = Forward(2048, 1024)
    calls = (
        forward.by(TorchNativeAttnBackend(forward.runner), None),
        forward.by(MultiverseTorchBackend(forward.runner), [Extend(1024, 2048, one_segment)]),
    )
    causal, ours = interleaved(calls, 3 * options.repeats)
    what = "A plain row of such a batch, half of 2,048 tokens cached, against stock"
    print(f"\n{what}: {ratio(ours, causal):.2f}")


if __name__ == "__main__":
    main()
