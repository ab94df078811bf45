"""Are the kernels right under our plans? bfloat16 on the device against dense float32.

    python benchmarks/gpu/numerics.py [--dry-run] [--json FILE]

Five checks: runs of an extend; the same by a custom mask; a cascade; a captured decode graph
replayed over rows that were moved; FlexAttention under the trainer's block mask, with gradients.
Exits with 1 where one is beyond its tolerance.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch
from cases import ROOT, Pool, Row, Shape, expected, noise, plain_row, pool, row, seen
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from wrappers import Kernels, arguments, machine, report

from sglang_multiverse.attention.batch import Siblings
from sglang_multiverse.attention.cascade_plan import ALONE
from sglang_multiverse.attention.kv_indices import kv_indices
from sglang_multiverse.attention.paged import plan_runs
from sglang_multiverse.attention.plan import plan

#: Largest difference allowed: answers are of size 1 to 4, and bfloat16 has 8 bits.
TOLERANCE = 2.5e-2

HEADS = ((5, 1), (40, 8))


class DecodeMode:
    """A forward mode that is decode."""

    @staticmethod
    def is_decode() -> bool:
        return True


def rows_of(scale: int) -> dict[str, list[Row]]:
    """Batches by name; ``scale`` is the length of the longest text."""
    shape = Shape(scale, 4, 3, 0.5)
    nested = Shape(scale, 2, 4, 0.8, nested=True)
    return {
        "one text": [row(shape)],
        "nested": [row(nested)],
        "a cached prefix": [row(nested, cached=scale // 3)],
        "a chunk": [row(nested, cached=scale // 5, end=scale // 2)],
        "short paths": [row(Shape(scale, 16, 4, 0.5))],
        "mixed": [row(shape, cached=7), plain_row(0, scale // 2), plain_row(scale - 1, scale)],
    }


def difference(got: torch.Tensor, wanted: torch.Tensor) -> dict[str, Any]:
    error = (got.float() - wanted.float()).abs()
    worst = float(error.max())
    return {"max": worst, "mean": float(error.mean()), "ok": bool(worst <= TOLERANCE)}


def run_segments(kernels: Kernels, data: Pool, rows: list[Row], q: torch.Tensor) -> torch.Tensor:
    """The product's own plan of the extend, through its own call."""
    made = plan([one.extend for one in rows])
    wrapper = kernels.prefill()
    plan_runs(wrapper, made, kv_indices(data, data.batch(), made.ranges), data.sizes)
    return wrapper.forward(q, data.cache, causal=True, sm_scale=data.scale)


def run_mask(kernels: Kernels, data: Pool, rows: list[Row], q: torch.Tensor) -> torch.Tensor:
    """One row of the plan per text, and a mask of every pair."""
    ends = [one.extend.end for one in rows]
    new = [one.extend.end - one.extend.prefix_len for one in rows]
    masks = [
        seen(one.layout, one.extend.prefix_len, one.extend.end, data.device).flatten()
        for one in rows
    ]
    wrapper = kernels.prefill()
    wrapper.plan(
        cumulative(new),
        cumulative(ends),
        torch.cat([table[:end] for table, end in zip(data.table, ends, strict=True)]),
        torch.ones(len(rows), dtype=torch.int32),
        *model(data),
        custom_mask=torch.cat(masks),
        q_data_type=torch.bfloat16,
        kv_data_type=torch.bfloat16,
    )
    # FlashInfer takes the mask from the plan, whatever is said of causal here.
    return wrapper.forward(q, data.cache, sm_scale=data.scale)


def cumulative(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def model(data: Pool) -> tuple[int, int, int, int]:
    return (data.sizes.num_qo_heads, data.sizes.num_kv_heads, data.sizes.head_dim, 1)


def check_extends(kernels: Kernels, scale: int, dim: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for heads in HEADS:
        for name, rows in rows_of(scale).items():
            data = pool([one.extend.end for one in rows], kernels.device, heads=heads, dim=dim)
            q = data.queries(sum(one.extend.end - one.extend.prefix_len for one in rows))
            wanted = expected(data, rows, q)
            segmented = run_segments(kernels, data, rows, q)
            masked = run_mask(kernels, data, rows, q)
            found[f"{name}, heads {heads[0]}:{heads[1]}"] = {
                "segments": difference(segmented, wanted),
                "custom_mask": difference(masked, wanted),
                "segments against custom_mask": difference(segmented, masked),
            }
    return found


def decode_pool(
    kernels: Kernels, heads: tuple[int, int], dim: int, prefix: int
) -> tuple[Pool, Siblings, list[int]]:
    """Two groups of siblings, a row alone between their rows."""
    shared = [prefix, prefix // 3, prefix, 0, prefix, prefix // 3]
    siblings = Siblings([4, 2, 4, ALONE, 4, 2], shared)
    lengths = [head + 5 + 13 * i for i, head in enumerate(shared)]
    data = pool(lengths, kernels.device, heads=heads, dim=dim)
    for member, leader in ((2, 0), (4, 0), (5, 1)):
        data.table[member, : shared[member]] = data.table[leader, : shared[member]]
    return data, siblings, lengths


def decode_expected(data: Pool, lengths: list[int], q: torch.Tensor) -> torch.Tensor:
    return expected(data, [plain_row(n - 1, n) for n in lengths], q)


def plan_decode(wrapper: Any, data: Pool, lengths: list[int]) -> None:
    wrapper.plan(
        cumulative(lengths),
        torch.cat([table[:n] for table, n in zip(data.table, lengths, strict=True)]),
        torch.ones(len(lengths), dtype=torch.int32),
        *model(data),
        q_data_type=torch.bfloat16,
        kv_data_type=torch.bfloat16,
    )


def check_cascade(kernels: Kernels, scale: int, dim: int) -> dict[str, Any]:
    found = {}
    for heads in HEADS:
        data, siblings, lengths = decode_pool(kernels, heads, dim, scale)
        q = data.queries(len(lengths))
        wanted = decode_expected(data, lengths, q)
        batch = data.batch(
            forward_mode=DecodeMode,
            multiverse_siblings=siblings,
            seq_lens_cpu=torch.tensor(lengths),
        )
        cascade = kernels.cascade()
        cascade.plan(batch, data, data.sizes)
        plain = kernels.decode()
        plan_decode(plain, data, lengths)
        ours = cascade.forward(q, data.cache, sm_scale=data.scale)
        stock = plain.forward(q, data.cache, sm_scale=data.scale)
        found[f"heads {heads[0]}:{heads[1]}"] = {
            "cascade": difference(ours, wanted),
            "plain": difference(stock, wanted),
            "cascade against plain": difference(ours, stock),
        }
    return found


def check_graph(kernels: Kernels, scale: int, dim: int) -> dict[str, Any]:
    """A decode graph captured once and replayed: over its rows, and over rows a fork has moved.

    The buffers are those a replay refreshes: a fork changes the page table and the lengths, and
    nothing in the graph.
    """
    data, _, lengths = decode_pool(kernels, (40, 8), dim, scale)
    rows = len(lengths)
    q = data.queries(rows)
    out = torch.empty_like(q)
    if kernels.dry:
        wrapper = kernels.decode()
    else:
        indices = torch.zeros(4 * sum(lengths), dtype=torch.int32, device="cuda")
        wrapper = kernels.decode(
            use_cuda_graph=True,
            paged_kv_indptr_buffer=torch.zeros(rows + 1, dtype=torch.int32, device="cuda"),
            paged_kv_indices_buffer=indices,
            paged_kv_last_page_len_buffer=torch.ones(rows, dtype=torch.int32, device="cuda"),
        )
    plan_decode(wrapper, data, lengths)

    def step() -> None:
        out.copy_(wrapper.forward(q, data.cache, sm_scale=data.scale))

    replay = capture(step) if not kernels.dry else step
    found = {}
    shorter = [max(2, n - 3) for n in lengths]
    order = torch.tensor([3, 0, 5, 1, 4, 2], device=data.device)
    for name, table, now in (
        ("as captured", data.table, lengths),
        ("shorter rows", data.table, shorter),
        ("rows in another order", data.table[order], [lengths[i] for i in order.tolist()]),
    ):
        moved = Pool(table, data.k, data.v, data.sizes)
        q.copy_(data.queries(rows, seed=len(found) + 5))
        out.zero_()
        plan_decode(wrapper, moved, now)
        replay()
        if not kernels.dry:
            torch.cuda.synchronize()
        found[name] = {"replay": difference(out, decode_expected(moved, now, q))}
    return found


def check_flex(kernels: Kernels, scale: int, dim: int) -> dict[str, Any]:
    """FlexAttention under the trainer's mask against SDPA in float32 under the dense one: answers
    and gradients, each relative to its largest value. A CPU has no such gradients."""
    block_mask = trainer_block_mask()
    torch.compiler.reset()
    attend = flex_attention if kernels.dry else torch.compile(flex_attention, dynamic=False)
    found = {}
    for heads in HEADS:
        for name, rows in rows_of(scale).items():
            if len(rows) > 1 or rows[0].extend.prefix_len:
                continue
            layout = rows[0].layout
            order = torch.from_numpy(layout.order)[None].to(kernels.device)
            like = torch.empty(0, device=kernels.device, dtype=torch.bfloat16)
            shapes = [(1, count, len(layout), dim) for count in (heads[0], heads[1], heads[1])]
            inputs = [noise(shape, like, seed) for seed, shape in enumerate(shapes)]
            gradient = noise(shapes[0], like, 7)
            mask = seen(layout, 0, len(layout), kernels.device)
            ours = _with_gradients(
                lambda *x, order=order: attend(*x, block_mask=block_mask(order), enable_gqa=True),
                inputs,
                None if kernels.dry else gradient,
            )
            wanted = _with_gradients(
                lambda *x, mask=mask: scaled_dot_product_attention(
                    *x, attn_mask=mask, enable_gqa=True
                ),
                [x.float() for x in inputs],
                None if kernels.dry else gradient.float(),
            )
            found[f"{name}, heads {heads[0]}:{heads[1]}"] = {
                what: difference(got / one.abs().max(), one / one.abs().max())
                for what, got, one in zip(("out", "dq", "dk", "dv"), ours, wanted, strict=False)
            }
    return found


def _with_gradients(
    attend: Any, inputs: list[torch.Tensor], gradient: torch.Tensor | None
) -> list[torch.Tensor]:
    if gradient is None:
        return [attend(*inputs)]
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient)]


def trainer_block_mask() -> Any:
    """``block_mask`` of the training room, loaded by itself: the room imports transformers."""
    spec = importlib.util.spec_from_file_location("masks", ROOT / "training" / "masks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.block_mask


def capture(step: Any) -> Any:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def main() -> int:
    options = arguments(__doc__).parse_args()
    kernels = Kernels(options.dry_run)
    scale, dim = (160, 16) if options.dry_run else (3000, 128)
    checks = {
        "extend": check_extends(kernels, scale, dim),
        "cascade": check_cascade(kernels, scale, dim),
        "graph": check_graph(kernels, scale, dim),
        "flex": check_flex(kernels, scale, dim),
    }
    failed = [
        f"{check}: {case}: {what}"
        for check, cases in checks.items()
        for case, results in cases.items()
        for what, result in results.items()
        if not result["ok"]
    ]
    report(
        {"machine": machine(options.dry_run), "tolerance": TOLERANCE, "failed": failed, **checks},
        options.json,
    )
    for line in failed:
        print(f"beyond {TOLERANCE}: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
