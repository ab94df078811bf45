"""What the plans cost on a device: extends, decode over shared prefixes, the trainer's mask.

    python benchmarks/gpu/speed.py [--dry-run] [--only extend decode flex] [--json FILE]

One layer of Qwen2.5-32B (40 query heads, 8 KV heads, 128 wide, bfloat16). Times are medians with
quartiles, of the device, in milliseconds; ``plan_ms`` is host time, paid once per forward. Decode
runs over as many layers of KV as the device's cache cannot hold, ``ms`` and ``graph_ms`` for each:
launched one by one, and replayed as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import EXTENDS, Pool, Row, Shape, noise, plain_row, pool, row
from numerics import DecodeMode, capture, cumulative, model, plan_decode, trainer_block_mask
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from wrappers import Kernels, arguments, machine, report

from sglang_multiverse.attention.batch import Siblings
from sglang_multiverse.attention.cascade_plan import cascade_pays, tokens_spared
from sglang_multiverse.attention.kv_indices import kv_indices
from sglang_multiverse.attention.paged import plan_runs
from sglang_multiverse.attention.plan import plan
from sglang_multiverse.layout import layout_of

HEADS, DIM = (40, 8), 128
#: Tokens that each path has written of its own, for decode.
OWN = 512

#: Bytes of KV that no device's cache holds: a model's layers follow one another over as much.
BEYOND_CACHE = 512 << 20

#: Prefix in tokens, siblings of a group, groups.
DECODES = (
    *((2048, n, 1) for n in (2, 4, 8)),
    *((8192, n, b) for n in (2, 4, 8) for b in (1, 8)),
    (8192, 4, 16),
    *((16384, n, 1) for n in (2, 4, 8)),
    (16384, 4, 8),
    *((32768, n, 1) for n in (2, 4, 8)),
    (32768, 4, 4),
    (8192, 8, 16),
    (16384, 8, 8),
)
FLEX = (
    Shape(2048, 16, 4, 0.5),
    Shape(8192, 8, 3, 0.35),
    Shape(16384, 8, 4, 0.8),
    Shape(32768, 8, 4, 0.8, nested=True),
)


def extends(kernels: Kernels, shapes: tuple[Shape, ...], repeats: int) -> list[dict[str, Any]]:
    """Segments, one causal row, and a custom mask, over the same KV."""
    found = []
    for shape in shapes:
        one = row(shape)
        data = pool([shape.tokens], kernels.device, heads=HEADS, dim=DIM)
        q = data.queries(shape.tokens)
        result: dict[str, Any] = {"structure": str(shape), "tokens": shape.tokens}
        result["runs"] = len(plan([one.extend]))
        result["segments"] = _time_plan(kernels, data, one, q, repeats)
        result["causal"] = _time_plan(kernels, data, plain_row(0, shape.tokens), q, repeats)
        result["custom_mask"] = _time_mask(kernels, data, one, q, repeats)
        for name in ("segments", "custom_mask"):
            result[f"{name} / causal"] = result[name]["ms"] / result["causal"]["ms"]
        found.append(result)
        del data, q
    return found


def _time_plan(
    kernels: Kernels, data: Pool, one: Row, q: torch.Tensor, repeats: int
) -> dict[str, float]:
    wrapper = kernels.prefill()

    def planned() -> None:
        made = plan([one.extend])
        plan_runs(wrapper, made, kv_indices(data, data.batch(), made.ranges), data.sizes)

    def run() -> None:
        wrapper.forward(q, data.cache, causal=True, sm_scale=data.scale)

    planned()
    times = kernels.time(run, repeats)
    return times | {"plan_ms": kernels.host(planned, repeats)}


def _time_mask(
    kernels: Kernels, data: Pool, one: Row, q: torch.Tensor, repeats: int
) -> dict[str, float]:
    """The mask packed beforehand: what is timed is the kernel, and how long packing takes."""
    n = one.extend.end
    wrapper = kernels.prefill()
    mask = _mask(one, data.device)

    def planned() -> None:
        wrapper.plan(
            cumulative([n]),
            cumulative([n]),
            data.table[0, :n],
            torch.ones(1, dtype=torch.int32),
            *model(data),
            custom_mask=mask,
            q_data_type=torch.bfloat16,
            kv_data_type=torch.bfloat16,
        )

    planned()
    times = kernels.time(lambda: wrapper.forward(q, data.cache, sm_scale=data.scale), repeats)
    return times | {"plan_ms": kernels.host(planned, 3), "mask_bytes": mask.numel()}


def _mask(one: Row, device: torch.device) -> torch.Tensor:
    """Every pair, a stretch of queries at a time: int64 of every pair would not fit."""
    n = one.extend.end
    order = torch.from_numpy(one.layout.order).to(device=device, dtype=torch.int32)
    mask = torch.empty((n, n), dtype=torch.bool, device=device)
    for at in range(0, n, 2048):
        torch.le(order[None, :], order[at : at + 2048, None], out=mask[at : at + 2048])
    return mask.tril_().flatten()


def decodes(
    kernels: Kernels, cases: tuple[tuple[int, int, int], ...], own: int, repeats: int
) -> list[dict[str, Any]]:
    """One step of one layer: stock's plan, and the two levels of a cascade."""
    found = []
    for prefix, paths, groups in cases:
        rows = paths * groups
        lengths = [prefix + own] * rows
        data = decode_pool(kernels, prefix, paths, groups, own)
        q = data.queries(rows)
        siblings = Siblings([i // paths for i in range(rows)], [prefix] * rows)
        batch = data.batch(
            forward_mode=DecodeMode,
            multiverse_siblings=siblings,
            seq_lens_cpu=torch.tensor(lengths),
        )
        cascade, plain = kernels.cascade(), kernels.decode()
        layers = 2 if kernels.dry else max(1, BEYOND_CACHE // (2 * data.k.nbytes))
        caches = [data.cache, *(copies(data.cache) for _ in range(layers - 1))]

        def plan_cascade(cascade: Any = cascade, batch: Any = batch, data: Pool = data) -> None:
            cascade.plan(batch, data, data.sizes)

        def plan_plain(plain: Any = plain, data: Pool = data, lengths: list[int] = lengths) -> None:
            plan_decode(plain, data, lengths)

        found.append(
            {
                "prefix": prefix,
                "paths": paths,
                "groups": groups,
                "layers": layers,
                "tokens_spared": tokens_spared(siblings.groups, siblings.shared),
                "rule": cascade_pays(siblings.groups, siblings.shared, data.sizes.bytes_per_token),
                "cascade": _time_decode(kernels, cascade, plan_cascade, caches, q, repeats),
                "plain": _time_decode(kernels, plain, plan_plain, caches, q, repeats),
            }
        )
        # A cascade runs without a graph in the place of stock's steps, which have one.
        ours, stock = found[-1]["cascade"], found[-1]["plain"]
        found[-1]["plain, graph / cascade"] = stock["graph_ms"] / ours["ms"]
        found[-1]["plain, graph / cascade, graph"] = stock["graph_ms"] / ours["graph_ms"]
        del caches
    return found


def copies(cache: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return cache[0].clone(), cache[1].clone()


def _time_decode(
    kernels: Kernels,
    wrapper: Any,
    planned: Callable[[], None],
    caches: list[tuple[torch.Tensor, torch.Tensor]],
    q: torch.Tensor,
    repeats: int,
) -> dict[str, float]:
    """Milliseconds a layer, and of a plan."""
    scale = float(q.shape[-1] ** -0.5)

    def step() -> None:
        for cache in caches:
            wrapper.forward(q, cache, sm_scale=scale)

    planned()
    times = kernels.time(step, repeats)
    replayed = kernels.time(step if kernels.dry else capture(step), repeats)
    times |= {f"graph_{name}": value for name, value in replayed.items()}
    by_layer = {name: value / len(caches) for name, value in times.items()}
    return by_layer | {"plan_ms": kernels.host(planned, repeats)}


def decode_pool(kernels: Kernels, prefix: int, paths: int, groups: int, own: int) -> Pool:
    """``groups`` prefixes, each at the head of the rows of its ``paths``."""
    heads = pool([prefix] * groups, kernels.device, heads=HEADS, dim=DIM)
    tails = pool([own] * (paths * groups), kernels.device, heads=HEADS, dim=DIM, seed=9)
    shared = heads.table.repeat_interleave(paths, 0)
    table = torch.cat([shared, tails.table + len(heads.k)], dim=1)
    k, v = (torch.cat(pair) for pair in zip(heads.cache, tails.cache, strict=True))
    return Pool(table, k, v, heads.sizes)


def flex(kernels: Kernels, shapes: tuple[Shape, ...], repeats: int) -> list[dict[str, Any]]:
    """The trainer's block mask against a causal one, and against SDPA told that it is causal."""
    block_mask = trainer_block_mask()
    heads, dim = ((5, 1), 16) if kernels.dry else (HEADS, DIM)
    found = []
    for shape in shapes:
        n = shape.tokens
        torch.compiler.reset()  # else compiled variants of all shapes count against one limit
        attend = flex_attention if kernels.dry else torch.compile(flex_attention, dynamic=False)
        order = torch.from_numpy(layout_of(shape.trace()).order)[None].to(kernels.device)
        like = torch.empty(0, device=kernels.device, dtype=torch.bfloat16)
        q, k, v = (
            noise((1, count, n, dim), like, seed)
            for seed, count in enumerate((heads[0], heads[1], heads[1]))
        )
        result: dict[str, Any] = {"structure": str(shape), "tokens": n}
        masks = {
            "multiverse": block_mask(order),
            "causal": create_block_mask(causal, 1, None, n, n, device=str(kernels.device)),
        }
        for name, mask in masks.items():

            def masked(*x: torch.Tensor, mask: Any = mask, attend: Any = attend) -> torch.Tensor:
                attended: torch.Tensor = attend(*x, block_mask=mask, enable_gqa=True)
                return attended

            result[name] = _time_training(kernels, masked, (q, k, v), repeats)
            result[name]["sparsity_percent"] = float(mask.sparsity())
        result["sdpa"] = _time_training(kernels, sdpa, (q, k, v), repeats)
        for base in ("causal", "sdpa"):
            for part in result[base].keys() & {"forward", "backward"}:
                ratio = result["multiverse"][part]["ms"] / result[base][part]["ms"]
                result[f"{part}: multiverse / {base}"] = ratio
        found.append(result)
    return found


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal, by torch's fastest kernel."""
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def causal(_b: Any, _h: Any, q: Any, k: Any) -> Any:
    return q >= k


def _time_training(
    kernels: Kernels,
    attend: Callable[..., torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
    repeats: int,
) -> dict[str, Any]:
    with torch.no_grad():
        result: dict[str, Any] = {"forward": kernels.time(lambda: attend(*inputs), repeats)}
    if kernels.dry:  # torch has no backward of FlexAttention on a CPU
        return result
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    gradient = torch.randn_like(out)
    result["backward"] = kernels.time(
        lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True), repeats
    )
    return result


def main() -> None:
    parser = arguments(__doc__)
    parts = ("extend", "decode", "flex")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    kernels = Kernels(options.dry_run)
    small = options.dry_run
    repeats = 2 if small else 20
    result: dict[str, Any] = {"machine": machine(small)}
    if "extend" in options.only:
        shapes = (Shape(256, 2, 3, 0.5), Shape(256, 2, 2, 0.8, nested=True)) if small else EXTENDS
        result["extend"] = extends(kernels, shapes, repeats)
    if "decode" in options.only:
        cases = ((64, 3, 1), (32, 2, 2)) if small else DECODES
        result["decode"] = decodes(kernels, cases, 16 if small else OWN, repeats)
    if "flex" in options.only:
        shapes = (Shape(256, 2, 3, 0.5),) if small else FLEX
        result["flex"] = flex(kernels, shapes, repeats)
    report(result, options.json)


if __name__ == "__main__":
    main()
